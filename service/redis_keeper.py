"""Keeps one Redis server running for a data folder as long as some process uses it.

Run as a program by `embedded_redis`, in a session of its own, so that Ctrl-C in a terminal reaches the program that
uses Redis and not Redis. Users hold a connection to the keeper's Unix socket: it sends them the server's URL, and the
kernel closes it for a user that is killed. A user that leaves while others stay is told so; when the last one leaves
the server is shut down, and only then its connection is closed. A keeper that is killed takes its server with it.

Standard library only, and no import of the package: it starts in a few milliseconds.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ADDRESS = "keeper.address"  # in the folder: path of the keeper's socket, while there is one
BUSY = 3  # exit status: another keeper or its server still holds the folder
LOG = "redis.log"
SHARED = b"+"  # to a user that leaves: others stay
_PREFIX = "prorec-redis-"
_FIRST_USER_S = 10.0  # whoever started the keeper died before it connected
_PR_SET_PDEATHSIG = 1


def main(folder: Path, binary: str) -> int:
    lock = _lock(folder / "keeper.lock")
    if lock is None:
        return BUSY
    _tidy(folder / ADDRESS)
    sockets = _sockets(folder)
    keeper = Keeper(folder, binary, sockets, lock)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        keeper.start()
        (folder / ADDRESS).write_text(str(keeper.socket_path))
        keeper.serve()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / ADDRESS).unlink(missing_ok=True)
        keeper.stop()
        shutil.rmtree(sockets, ignore_errors=True)
        keeper.let_go()
    return 0


@dataclass
class Keeper:
    """One server and the connections of its users."""

    folder: Path
    binary: str
    sockets: Path
    lock: int  # file descriptor; the server inherits it, so the folder is free only when the server has ended too
    users: set[socket.socket] = field(default_factory=set)
    server: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def socket_path(self) -> Path:
        return self.sockets / "keeper"

    @property
    def redis_path(self) -> Path:
        return self.sockets / "redis"

    def start(self) -> None:
        """Starts the server and returns when it answers, which after a load of much data is not at once."""
        self.started = time.monotonic()
        self.server = subprocess.Popen(
            [self.binary, *self._options()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[self.lock],
            preexec_fn=_die_with(os.getpid()),
        )
        while not self._answers():
            if self.server.poll() is not None:
                sys.exit(f"redis-server ended at its start with status {self.server.returncode}: {self._last_words()}")
            time.sleep(0.01)

    def serve(self) -> None:
        """Until the last user has gone. A server that dies is started again, at most once a second."""
        with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
            listener.bind(str(self.socket_path))
            listener.listen(64)
            selector.register(listener, selectors.EVENT_READ)
            alone_until = time.monotonic() + _FIRST_USER_S
            while self.users or time.monotonic() < alone_until:
                for key, _ in selector.select(timeout=0.2):
                    if key.fileobj is listener:
                        self._welcome(listener, selector)
                    elif isinstance(key.fileobj, socket.socket) and self._part(key.fileobj, selector):
                        return
                self._revive()

    def stop(self) -> None:
        """Ends the server; what was written is on disk then."""
        if self.server is not None and self.server.poll() is None:
            self.server.terminate()
            self.server.wait()

    def let_go(self) -> None:
        for user in self.users:
            user.close()

    def _welcome(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        user, _ = listener.accept()
        with contextlib.suppress(OSError):  # gone already: reading from it says so next
            user.sendall(f"unix://{self.redis_path}\n".encode())
        self.users.add(user)
        selector.register(user, selectors.EVENT_READ)

    def _part(self, user: socket.socket, selector: selectors.BaseSelector) -> bool:
        """True if this was the last user: its connection stays open until the server has ended."""
        selector.unregister(user)
        if len(self.users) == 1:
            return True
        self.users.remove(user)
        with contextlib.suppress(OSError), user:
            user.sendall(SHARED)
        return False

    def _revive(self) -> None:
        """A server that cannot start just now, as where the disk is full, is tried again: its users stay."""
        if self.server is not None and self.server.poll() is not None and time.monotonic() > self.started + 1.0:
            try:
                self.start()
            except SystemExit as error:
                print(error, file=sys.stderr, flush=True)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(str(self.redis_path))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")  # while it loads its data it says -LOADING
        return False

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.redis_path),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "always",  # else what was acknowledged last is lost where Redis or the machine stops
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": str(self.folder / LOG),
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.folder / LOG).read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return f"see {self.folder / LOG}"


def _lock(path: Path) -> int | None:
    """A descriptor that holds the folder, or None while another one does."""
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def _sockets(folder: Path) -> Path:
    """A fresh folder, 0700 and short, as socket paths end at about 100 bytes; always the same one for `folder`.

    So who has used a server finds the next one at the same address.
    """
    name = f"{_PREFIX}{os.geteuid()}-{hashlib.blake2b(bytes(folder), digest_size=6).hexdigest()}"
    sockets = Path(tempfile.gettempdir()) / name
    sockets.mkdir(mode=0o700, exist_ok=True)
    found = sockets.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        sys.exit(f"{sockets} is there already and is not this user's own; remove it")
    for left in sockets.iterdir():  # by a keeper that was killed
        left.unlink()
    return sockets


def _tidy(address: Path) -> None:
    """Removes the sockets of a keeper that was killed."""
    with contextlib.suppress(OSError):
        sockets = Path(address.read_text()).parent
        address.unlink()
        if sockets.name.startswith(_PREFIX):
            shutil.rmtree(sockets, ignore_errors=True)


def _die_with(parent: int) -> Callable[[], None]:
    """What runs in the server's process before it becomes redis-server: it asks for SIGTERM when the keeper dies."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # elsewhere a killed keeper leaves its server behind

    def ask() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the kernel was asked
                os._exit(1)

    return ask


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
