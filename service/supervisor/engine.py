"""One engine process, from its start to its end."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from service.api.control import Route
from service.frames import EngineInfo, Ping, pack, read_frame

from .processes import Child

_LOOK_S: Final = 0.02
_MARGIN_S: Final = 5.0  # beyond the engine's own limit on its drain


class StartError(Exception):
    """An engine ended before it was ready; the message is its last line."""


class Engine:
    """A warm engine process."""

    def __init__(self, child: Child, route: Route, folder: Path) -> None:
        self.child = child
        self.route = route
        self.folder = folder  # of its artifact

    @classmethod
    async def start(cls, folder: Path, socket: Path, environment: Mapping[str, str]) -> "Engine":
        """Returns when it is warm and has proved itself; raises StartError. Cancelling kills it."""
        arguments = ["service.engine", "--artifact", str(folder), "--socket", str(socket)]
        child = await Child.spawn(arguments, environment)
        try:
            return cls(child, Route(str(socket), await _first_words(child, socket)), folder)
        except BaseException:
            await child.kill()
            raise

    @property
    def version(self) -> str:
        return self.route.info.model_version

    async def drain(self, timeout_s: float) -> None:
        """Lets it answer what is in flight, and ends it."""
        await self.child.stop(timeout_s + _MARGIN_S)
        Path(self.route.socket).unlink(missing_ok=True)


async def _first_words(child: Child, socket: Path) -> EngineInfo:
    """An engine listens when it is ready, not before."""
    while child.running:
        with suppress(OSError, asyncio.IncompleteReadError):
            if info := await _ping(socket):
                return info
        await child.wait_at_most(_LOOK_S)
    raise StartError(child.last_sentence(await child.wait()))


async def _ping(socket: Path) -> EngineInfo | None:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(pack(Ping(0), msgspec.msgpack.Encoder()))
        body = await read_frame(reader)
        return None if body is None else msgspec.msgpack.decode(body, type=EngineInfo)
    finally:
        writer.close()
