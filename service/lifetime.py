"""How a process that holds one artifact starts and ends: its options, its socket, and what tells it to stop."""

import argparse
import asyncio
import os
import re
import signal
import stat
from pathlib import Path
from typing import Final

REFUSED: Final = 2  # exit code where something is wanted that cannot be, however often it is tried
BACKLOG: Final = 1024  # connections that wait to be accepted, as when very many workers are told of an engine at once
_FAREWELL: Final = re.compile("the (engine|reader|worker) (could not start|lost its device): ")
_MAX_SOCKET_PATH_BYTES: Final = 107  # sockaddr_un holds 108 with the closing zero
_STDIN: Final = 0


class UsageError(Exception):
    """The command line asks for something impossible."""


def option_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Reads `artifact` and `socket`, both paths; more options may be added."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR", help="folder of the artifact to serve")
    parser.add_argument(
        "--socket", type=Path, required=True, metavar="PATH", help="Unix socket to listen on when ready"
    )
    return parser


def check_socket_path(path: Path) -> None:
    """Raises UsageError for a path the system cannot bind."""
    length = len(os.fsencode(path))
    if length > _MAX_SOCKET_PATH_BYTES:
        raise UsageError(f"the socket path {path} has {length} bytes, the system allows {_MAX_SOCKET_PATH_BYTES}")


def stop_requested() -> asyncio.Event:
    """Set by SIGTERM, by Ctrl-C in a terminal, and by the end of stdin where a parent holds the other end."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if not _parent_holds_stdin():
        loop.add_signal_handler(signal.SIGINT, stop.set)
        return stop
    # Ctrl-C reaches the whole process group, but the parent decides when a child may go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop.add_reader(_STDIN, _watch_stdin, loop, stop)
    return stop


def one_line(error: BaseException) -> str:
    """What went wrong, as the last line on stderr."""
    return " ".join(str(error).split()) or type(error).__name__


def is_farewell(line: str) -> bool:
    """Whether a line on stderr says why a process of ours ends. Whoever started it tells it, once."""
    return _FAREWELL.match(line) is not None


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
