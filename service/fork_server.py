"""`python -m service.fork_server --socket FD MODULE…`: imports the modules once, and forks into programs from then on.

A fork has everything imported, where a fresh interpreter spends most of a start on imports: a second of processor time,
taken from the engines that serve beside it. (The fork server of `multiprocessing` has the environment of its parent,
secrets included, and gives its children no pipes.) FD is a Unix socket of type SEQPACKET: one packet is one message,
and file descriptors travel with it. It ends with the other end of that socket; its children go on.
"""

import argparse
import os
import selectors
import shlex
import socket
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from runpy import run_module
from typing import Final, NoReturn

import msgspec
from setproctitle import setproctitle

from .garbage import spare_the_old

MAX_BYTES: Final = 65_536  # of a packet
_STREAMS: Final = 3


class Run(msgspec.Struct, tag="run"):
    """Become `python -m ARGUMENTS`, in a session of its own. With it travel its stdin, stdout and stderr."""

    arguments: list[str]


class Born(msgspec.Struct, tag="born"):
    """The reply to `Run`. With it travels a pidfd, which stands for this process whatever becomes of its number."""

    pid: int


class Ended(msgspec.Struct, tag="ended"):
    """A child has ended, with this exit code, negative for a signal."""

    pid: int
    code: int


class ForkServer:
    """Forks, and reports what ended."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._selector = selectors.DefaultSelector()
        self._selector.register(link, selectors.EVENT_READ)
        self._requests = msgspec.msgpack.Decoder(Run)

    def serve(self) -> None:
        """Until nobody holds the other end."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._link:
                    self._reap(key.fd, key.data)
                elif not self._take():
                    return

    def _take(self) -> bool:
        """Whether there was a request."""
        packet, streams, _, _ = socket.recv_fds(self._link, MAX_BYTES, _STREAMS)
        if not packet:
            return False
        arguments = self._requests.decode(packet).arguments
        pid = _fork()
        if not pid:
            self._forget()
            _become(arguments, streams)
        pidfd = os.pidfd_open(pid)
        self._selector.register(pidfd, selectors.EVENT_READ, pid)
        socket.send_fds(self._link, [msgspec.msgpack.encode(Born(pid))], [pidfd])
        for stream in streams:
            os.close(stream)
        return True

    def _forget(self) -> None:
        """In a child: what belongs to its parent and to its siblings."""
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()

    def _reap(self, pidfd: int, pid: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._link.send(msgspec.msgpack.encode(Ended(pid, code)))


def _fork() -> int:
    with warnings.catch_warnings():
        # Newer Pythons warn of other threads: there are those of numpy's OpenBLAS, which knows of forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _become(arguments: Sequence[str], streams: Sequence[int]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        setproctitle(shlex.join([sys.executable, "-m", *arguments]))  # for `ps`
        code = _run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(arguments: Sequence[str]) -> int:
    """The exit code a Python process would have."""
    sys.argv = list(arguments)
    try:
        run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> int:
    """Exit code: 0 when the other end of the socket has gone."""
    parser = argparse.ArgumentParser(prog="python -m service.fork_server", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, metavar="FD")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    options = parser.parse_args()
    for module in options.modules:
        import_module(module)
    spare_the_old()  # or the first collection in every child writes to, and so copies, all that was imported
    with socket.socket(fileno=options.socket) as link:
        ForkServer(link).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
