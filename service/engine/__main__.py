"""`python -m service.engine --artifact DIR --socket PATH`: serves one artifact until SIGTERM or the end of stdin."""

import argparse
import asyncio
import logging
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import uvloop

from service.log_format import configure_logging
from service.settings import Settings

from .batcher import Batcher
from .server import Server
from .startup import Engine, load

_MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un holds 108 with the closing zero
_SWITCH_INTERVAL_S = 0.0005
_STDIN = 0

logger = logging.getLogger(__name__)


class UsageError(Exception):
    """The command line asks for something impossible."""


def main() -> int:
    """Exit code: 0 after a drain, 1 for an engine that could not start or lost its device."""
    options = _parse()
    try:
        settings = Settings()
        configure_logging(settings, "engine")
        _check_socket_path(options.socket)
        # The search thread must not wait Python's usual 5 ms for the interpreter when a run ends.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        engine = load(options.artifact, settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(engine, settings, options.socket))
    except Exception as error:
        logger.debug("start failed", exc_info=True)
        print(f"the engine could not start: {_one_line(error)}", file=sys.stderr)
        return 1


async def _serve(engine: Engine, settings: Settings, socket: Path) -> int:
    batcher = Batcher(engine.search, queue_limit=settings.queue_limit, max_rows=settings.max_batch_rows)
    server = Server(engine.catalog, batcher, engine.info)
    ended = batcher.start()
    await server.listen(str(socket))
    stop: asyncio.Future[Any] = asyncio.ensure_future(_stop_requested().wait())
    await asyncio.wait([stop, ended], return_when=asyncio.FIRST_COMPLETED)
    lost = ended.exception() if ended.done() else None
    await server.drain(0.0 if lost else settings.drain_timeout_s)
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


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.engine", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR", help="folder of the artifact to serve")
    parser.add_argument(
        "--socket", type=Path, required=True, metavar="PATH", help="Unix socket to listen on when ready"
    )
    return parser.parse_args()


def _check_socket_path(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > _MAX_SOCKET_PATH_BYTES:
        raise UsageError(f"the socket path {path} has {length} bytes, the system allows {_MAX_SOCKET_PATH_BYTES}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
