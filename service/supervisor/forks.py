"""Engines and readers as forks of one process that has imported what they need (`service.fork_server`)."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from service.fork_server import MAX_BYTES, Born, Ended, Run

from .processes import LINE_BYTES, METRICS_FOLDER, Child, Spawn

_PROGRAM: Final = "service.fork_server"
_MODULES: Final = ("service.engine.process", "service.reader.process")
_LOST: Final = 1  # exit code of a child whose end nobody could report
_STOP_S: Final = 5.0


class Forked:
    """A fork, with what `asyncio.subprocess.Process` has."""

    def __init__(self, pid: int, pidfd: int, pipes: "Pipes") -> None:
        self.pid = pid
        self.stdout, self.stderr = pipes.stdout, pipes.stderr
        self._pidfd = pidfd
        self._pipes = pipes
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self._code)

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError where it has ended."""
        if self._code.done():
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, number)

    def ended(self, code: int) -> None:
        os.close(self._pidfd)
        self._pipes.close()
        self._code.set_result(code)

    def lost(self) -> None:
        """Nobody will report its end any more; it is seen all the same."""
        loop = asyncio.get_running_loop()

        def seen() -> None:
            loop.remove_reader(self._pidfd)
            self.ended(_LOST)

        loop.add_reader(self._pidfd, seen)


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pipes:
    """Our ends of a child's streams. What we read ends by itself, with the last process that writes."""

    stdin: int
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    @classmethod
    async def open(cls) -> tuple["Pipes", list[int]]:
        """And its ends."""
        stdin, ours = os.pipe()
        theirs, readers = [stdin], []
        for _ in range(2):
            end, write = os.pipe()
            theirs.append(write)
            readers.append(await _reader(end))
        return cls(ours, *readers), theirs

    def close(self) -> None:
        os.close(self.stdin)


class Forks:
    """Starts the fork server, and anew when it has died; children of a dead one live on."""

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str] = _MODULES) -> None:
        self._environment = environment
        self._modules = modules
        self._reports = msgspec.msgpack.Decoder(Born | Ended)
        self._turn = asyncio.Lock()
        self._server: Child | None = None
        self._link: socket.socket | None = None
        self._birth: tuple[Pipes, asyncio.Future[Forked]] | None = None
        self._children: dict[int, Forked] = {}

    async def start(self) -> socket.socket:
        """The link to a fork server that runs, or has just been started and imports."""
        if self._link is None:
            self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            asyncio.get_running_loop().add_reader(self._link, self._hear, self._link)
            with theirs:  # if nobody is started, we read the end of our side
                arguments = [_PROGRAM, "--socket", str(theirs.fileno()), *self._modules]
                self._server = await Child.spawn(arguments, self._environment, [theirs.fileno()])
        return self._link

    async def spawn(self, arguments: Sequence[str], *, on_line: Callable[[str], None]) -> Child:
        """As `Child.spawn`. Raises OSError where the fork server has died meanwhile."""
        birth = asyncio.create_task(self._fork(arguments))
        try:
            forked = await asyncio.shield(birth)
        except asyncio.CancelledError:  # it is being born, and nobody would know of it
            with suppress(OSError):
                (await birth).send_signal(signal.SIGKILL)
            raise
        return Child(forked, Path(self._environment[METRICS_FOLDER]), on_line)

    async def stop(self) -> None:
        """For good; its children have ended before."""
        if self._link is not None:
            self._leave(self._link)
        if self._server is not None:
            await self._server.stop(_STOP_S)

    async def _fork(self, arguments: Sequence[str]) -> Forked:
        async with self._turn:
            link = await self.start()
            pipes, theirs = await Pipes.open()
            born: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
            try:
                self._birth = pipes, born
                socket.send_fds(link, [msgspec.msgpack.encode(Run(list(arguments)))], theirs)
                return await born
            except OSError:
                pipes.close()
                raise
            finally:
                self._birth = None
                for end in theirs:
                    os.close(end)

    def _hear(self, link: socket.socket) -> None:
        try:
            packet, fds, _, _ = socket.recv_fds(link, MAX_BYTES, 1)
        except OSError:
            packet, fds = b"", []
        if not packet:
            logger.error("the process that starts engines has died; engines go on, and the next start begins another")
            self._leave(link)
            return
        match self._reports.decode(packet):
            case Born(pid) if self._birth is not None:
                pipes, born = self._birth
                self._children[pid] = Forked(pid, fds[0], pipes)
                born.set_result(self._children[pid])
            case Ended(pid, code) if pid in self._children:
                self._children.pop(pid).ended(code)

    def _leave(self, link: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(link)
        link.close()
        self._link = None
        if self._birth is not None and not self._birth[1].done():
            self._birth[1].set_exception(ConnectionResetError("the process that starts engines has died"))
        for child in self._children.values():
            child.lost()
        self._children.clear()


def can_fork() -> bool:
    """Whether the system has pidfds: Linux from 5.3 on, if nothing in between forbids them."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def starter(environment: Mapping[str, str], forks: Forks | None) -> Spawn:
    """Forks where the system can do it, else fresh interpreters."""
    return forks.spawn if forks else partial(Child.spawn, environment=environment)


class _Stream(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        """Has the pipe closed at its end; uvloop would keep it open, until garbage is collected."""
        super().eof_received()
        return False


async def _reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: _Stream(reader), os.fdopen(fd, "rb", buffering=0))
    return reader
