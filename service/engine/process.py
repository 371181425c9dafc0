"""One engine process: from a quiet start to its drain."""

import asyncio
import logging
import os
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from service.settings import Settings

from .batcher import Batcher
from .changes import Changes
from .quiet import Quietly
from .server import Server
from .slots import Slots
from .startup import Engine, load

_MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un holds 108 with the closing zero
_STDIN = 0

logger = logging.getLogger(__name__)


class UsageError(Exception):
    """The command line asks for something impossible."""


def load_quietly(artifact: Path, socket: Path, quietly: Quietly) -> Engine | None:
    """A warm engine; None where it could not start, with the reason as one line on stderr."""
    try:
        settings = Settings()
        logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        _check_socket_path(socket)
        return load(artifact, settings, _tell, quietly)
    except Exception as error:
        logger.debug("start failed", exc_info=True)
        print(f"the engine could not start: {_one_line(error)}", file=sys.stderr)
        return None


def serve(engine: Engine, socket: Path) -> int:
    """Until it is told to stop, or has lost its device. Returns the exit code."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(engine, Settings(), socket))
    except Exception as error:
        logger.debug("serving failed", exc_info=True)
        print(f"the engine could not start: {_one_line(error)}", file=sys.stderr)
        return 1


async def _serve(engine: Engine, settings: Settings, socket: Path) -> int:
    batcher = Batcher(engine.search, queue_limit=settings.queue_limit, max_rows=settings.max_batch_rows)
    changes = Changes(engine.search, batcher)
    server = Server(engine.catalog, batcher, Slots(engine.slot_count), changes, engine.info)
    ended = batcher.start()
    await server.listen(str(socket))
    _tell("ready")
    stop: asyncio.Future[Any] = asyncio.ensure_future(_stop_requested().wait())
    await asyncio.wait([stop, ended], return_when=asyncio.FIRST_COMPLETED)
    lost = ended.exception() if ended.done() else None
    await server.drain(0.0 if lost else settings.drain_timeout_s)
    changes.close()
    socket.unlink(missing_ok=True)
    if lost:
        print(f"the engine lost its device: {_one_line(lost)}", file=sys.stderr)
    return 1 if lost else 0


def _stop_requested() -> asyncio.Event:
    """Set by SIGTERM, by Ctrl-C in a terminal, and by the end of stdin where a parent holds the other end."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if not _parent_holds_stdin():
        loop.add_signal_handler(signal.SIGINT, stop.set)
        return stop
    # Ctrl-C reaches the whole process group, but the parent decides when an engine may go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop.add_reader(_STDIN, _watch_stdin, loop, stop)
    return stop


def _parent_holds_stdin() -> bool:
    try:
        mode = os.fstat(_STDIN).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(_STDIN, 4096):
        loop.remove_reader(_STDIN)
        stop.set()


def _tell(stage: str) -> None:
    """To whoever started this process, if it is still there."""
    with suppress(OSError):
        print(f"stage {stage}", flush=True)


def _check_socket_path(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > _MAX_SOCKET_PATH_BYTES:
        raise UsageError(f"the socket path {path} has {length} bytes, the system allows {_MAX_SOCKET_PATH_BYTES}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
