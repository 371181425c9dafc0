"""One engine process, or one reader, from its start to its end."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from service.api.control import Route
from service.api.engine_link import Asked, EngineClient, EngineLost
from service.frames import EngineInfo, Ping, Reply, pack, read_frame
from service.lifetime import REFUSED

from .processes import Child, Spawn

_LOOK_S: Final = 0.02
_MARGIN_S: Final = 5.0  # beyond the engine's own limit on its drain
_STAGE: Final = "stage "  # begins a line on stdout that says how far the start is

logger = logging.getLogger(__name__)


class StartError(Exception):
    """An engine ended before it was ready; the message is its last line. `final`: the next one would do the same."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final

    @classmethod
    async def of(cls, child: Child) -> "StartError":
        """Waits for its end."""
        code = await child.wait()
        return cls(child.last_sentence(code), final=code == REFUSED)


@dataclass(frozen=True)
class Pulse:
    """How a process that runs but no longer does anything is found out."""

    every_s: float = 5.0
    hung_s: float = 30.0  # far above the longest batch; a process stopped for a moment may go on


@dataclass(frozen=True)
class Program:
    """What to run: `python -m NAME --artifact DIR --socket PATH`."""

    name: str = "service.engine"
    options: tuple[str, ...] = ()
    pulse: Pulse = Pulse()


class Engine:
    """A warm engine process."""

    def __init__(self, child: Child, route: Route, folder: Path) -> None:
        self.child = child
        self.route = route
        self.folder = folder  # of its artifact
        self._link: EngineClient | None = None
        self._ids = itertools.count(1)
        self._pulse: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        folder: Path,
        socket: Path,
        spawn: Spawn,
        program: Program = Program(),
        on_stage: Callable[[str], None] = lambda _: None,
    ) -> "Engine":
        """Returns when it is warm and has proved itself; raises StartError. Cancelling kills it.

        `on_stage` hears how far it is: "verifying", "loading", "warming".
        """
        arguments = [program.name, "--artifact", str(folder), "--socket", str(socket), *program.options]
        child = await spawn(arguments, on_line=lambda line: _tell_stage(line, on_stage))
        try:
            engine = cls(child, Route(str(socket), await _first_words(child, socket)), folder)
            await engine.connect(program.pulse)
        except (OSError, EngineLost):  # it ended right after it was ready
            await child.kill()
            raise await StartError.of(child) from None
        except BaseException:
            await child.kill()
            raise
        return engine

    @property
    def version(self) -> str:
        return self.route.info.model_version

    async def connect(self, pulse: Pulse) -> None:
        """Opens the supervisor's own connection, and watches over it from now on. Raises OSError."""
        self._link = await EngineClient.connect(self.route)
        self._pulse = asyncio.create_task(self._watch(self._link, pulse))

    async def request(self, message: Asked) -> Reply:
        """The reply to a message, whatever its `query_id`. Raises EngineLost, or what a `Failure` stands for."""
        if self._link is None:
            raise EngineLost
        return await self._link.request(msgspec.structs.replace(message, query_id=next(self._ids)))

    async def drain(self, timeout_s: float) -> None:
        """Lets it answer what is in flight, and ends it."""
        if self._pulse:
            self._pulse.cancel()
        if self._link:
            await self._link.close()
        await self.child.stop(timeout_s + _MARGIN_S)
        Path(self.route.socket).unlink(missing_ok=True)

    async def _watch(self, link: EngineClient, pulse: Pulse) -> None:
        """Kills it when it runs without answering; what follows is what follows a crash."""
        try:
            while not await self.child.wait_at_most(pulse.every_s):
                async with asyncio.timeout(pulse.hung_s):
                    await self.request(Ping(0))
        except TimeoutError:
            logger.error("process %d has not answered for %.0f s and is killed", self.child.pid, pulse.hung_s)
        except EngineLost:
            await self.child.wait_at_most(pulse.every_s)
        self.child.kill_now()
        await link.close()
        Path(self.route.socket).unlink(missing_ok=True)


def _tell_stage(line: str, on_stage: Callable[[str], None]) -> None:
    if line.startswith(_STAGE):
        on_stage(line.removeprefix(_STAGE))
    elif line:
        logger.info("%s", line)


async def _first_words(child: Child, socket: Path) -> EngineInfo:
    """An engine listens when it is ready, not before."""
    while child.running:
        with suppress(OSError, asyncio.IncompleteReadError):
            if info := await _ping(socket):
                return info
        await child.wait_at_most(_LOOK_S)
    raise await StartError.of(child)


async def _ping(socket: Path) -> EngineInfo | None:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(pack(Ping(0), msgspec.msgpack.Encoder()))
        body = await read_frame(reader)
        return None if body is None else msgspec.msgpack.decode(body, type=EngineInfo)
    finally:
        writer.close()
