"""The folder of a replica's sockets and metrics, which ends with it; a killed one's is removed by the next replica."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "prorec-"
_LOCK: Final = "owner.lock"
_MEMORY: Final = Path("/dev/shm")
_LEAST_FREE_BYTES: Final = 32 << 20


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, short enough for addresses of sockets.

    In memory where there is such a place, unless TMPDIR names another: processes count in files that they have mapped,
    and on a disk that is full they would end with SIGBUS. Its lock is held by this process and whatever it forks, so
    the folder lasts as long as any of them.
    """
    parent = _parent(_MEMORY)
    _remove_abandoned(parent)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True) as name:
        aside = Path(name) / f".{_LOCK}"
        with aside.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            aside.rename(aside.with_name(_LOCK))  # nobody meets it unlocked
            yield Path(name)


def _parent(memory: Path) -> Path:
    """`memory` where it can be written and has room, else the system's folder for temporary files."""
    fallback = Path(tempfile.gettempdir())
    if os.environ.get("TMPDIR") or not os.access(memory, os.W_OK | os.X_OK):
        return fallback
    free = os.statvfs(memory)
    return memory if free.f_bavail * free.f_frsize >= _LEAST_FREE_BYTES else fallback


def _remove_abandoned(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("rb") as held:  # another user's, one that is ending now, one in use
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
