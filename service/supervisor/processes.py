"""Child processes that cannot be forgotten: their death is awaited, their last words are kept, they end with us."""

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from service.lifetime import is_farewell
from service.metric_files import archive
from service.settings import Settings, variable

METRICS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
LINE_BYTES: Final = 1 << 16
_CHATTER: Final = re.compile(r'(DEBUG|INFO|WARNING) |\{.*"level": "(DEBUG|INFO|WARNING)"')  # of the log, and no reason
_archivist: Final = ThreadPoolExecutor(1, "archivist")  # its own: a Redis that hangs may keep other threads busy

logger = logging.getLogger(__name__)


class Process(Protocol):
    """What is needed of a running process; `asyncio.subprocess.Process` has it."""

    @property
    def pid(self) -> int: ...

    @property
    def stdout(self) -> asyncio.StreamReader | None: ...

    @property
    def stderr(self) -> asyncio.StreamReader | None: ...

    async def wait(self) -> int:
        """The exit code, negative for a signal."""

    def send_signal(self, number: int, /) -> None:
        """Raises ProcessLookupError where it has ended."""


class Spawn(Protocol):
    """Starts `python -m ARGUMENTS`."""

    async def __call__(self, arguments: Sequence[str], /, *, on_line: Callable[[str], None]) -> "Child":
        """`on_line` gets what it writes to stdout. Raises OSError."""


class Child:
    """A running `python -m …`. Its stdin is a pipe that only we hold, so it reads an end when we are gone."""

    def __init__(self, process: Process, metrics_folder: Path, on_line: Callable[[str], None] | None = None) -> None:
        self.pid = process.pid
        self.last_words = ""  # the last line on its stderr that may say why it ends
        self._farewell = ""  # the line in which it says itself why it ends
        self._process = process
        self._metrics_folder = metrics_folder
        self._on_line = on_line
        self._ended = asyncio.create_task(self._watch())

    @classmethod
    async def spawn(
        cls,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        fds: Sequence[int] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> "Child":
        """Starts `python -m ARGUMENTS` in a session of its own, where no Ctrl-C of the terminal reaches it.

        `on_line` gets what it writes to stdout; without one that is our stdout.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if on_line else None,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            pass_fds=fds,
            start_new_session=True,
            limit=LINE_BYTES,
        )
        return cls(process, Path(environment[METRICS_FOLDER]), on_line)

    @property
    def running(self) -> bool:
        return not self._ended.done()

    async def wait(self) -> int:
        """The exit code, negative for a signal, once its stderr is read to the end."""
        return await asyncio.shield(self._ended)

    async def wait_at_most(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s`."""
        done, _ = await asyncio.wait([self._ended], timeout=timeout_s)
        return bool(done)

    async def stop(self, timeout_s: float) -> int:
        """Asks with SIGTERM, insists with SIGKILL after `timeout_s`."""
        self.signal(signal.SIGTERM)
        if not await self.wait_at_most(timeout_s):
            logger.error("process %d did not end within %.0f s and is killed", self.pid, timeout_s)
            self.signal(signal.SIGKILL)
        return await self.wait()

    async def kill(self) -> None:
        self.kill_now()
        await self.wait()

    def kill_now(self) -> None:
        """Nothing happens to one that has ended."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def last_sentence(self, code: int) -> str:
        """Why it ended, as well as it is known."""
        if self._farewell:
            return self._farewell
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return self.last_words if code == 1 and self.last_words else f"it ended with {how}"

    async def _watch(self) -> int:
        await asyncio.gather(self._relay_stderr(), self._relay_stdout())
        code = await self._process.wait()
        try:
            await asyncio.get_running_loop().run_in_executor(_archivist, archive, self._metrics_folder, self.pid)
        except Exception as error:  # a full disk or a damaged file must not keep its death from those who wait for it
            logger.warning("what process %d counted is lost: %s", self.pid, error)
        return code

    async def _relay_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        while line := await _read_line(stream):
            if is_farewell(line):  # told by whoever asks for its last sentence, and in the format of the log
                self._farewell = line.strip()
                continue
            with suppress(OSError, ValueError):  # whoever read our own has gone; the child must not block on its pipe
                sys.stderr.write(line)
            if not _CHATTER.match(line):
                self.last_words = line.strip() or self.last_words

    async def _relay_stdout(self) -> None:
        stream = self._process.stdout
        while stream and self._on_line and (line := await _read_line(stream)):
            self._on_line(line.strip())


async def _read_line(stream: asyncio.StreamReader) -> str:
    """The next line, or a piece of an overlong one; empty at the end."""
    try:
        line = await stream.readuntil()
    except asyncio.IncompleteReadError as error:
        line = error.partial
    except asyncio.LimitOverrunError as error:
        line = await stream.readexactly(error.consumed)
    return line.decode(errors="replace")


def environment(settings: Settings, metrics_folder: str) -> dict[str, str]:
    """Our environment, with every setting as it stands now, whoever set it."""
    values = settings.model_dump(mode="json")
    ours = {name: value for name, value in os.environ.items() if name.upper() not in map(variable, values)}
    theirs = {variable(name): str(value) for name, value in values.items() if value is not None}
    return ours | theirs | {METRICS_FOLDER: metrics_folder}


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """For engines, which need neither Redis nor the admin token."""
    secret = {variable("redis_url"), variable("admin_token")}
    return {name: value for name, value in variables.items() if name.upper() not in secret}
