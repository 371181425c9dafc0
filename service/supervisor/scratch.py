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
_SYSTEMD: Final = Path("/run/systemd/system")
_LAST_SYSTEM_USER: Final = 999


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, short enough for addresses of sockets.

    In memory where there is such a place, unless TMPDIR names another: processes count in files that they have mapped,
    and on a disk that is full they would end with SIGBUS. Its lock is held by this process and whatever it forks, so
    the folder lasts as long as any of them.
    """
    for place in {_MEMORY, *map(Path, filter(None, (os.environ.get("TMPDIR"), "/tmp")))}:
        _remove_abandoned(place)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=_parent(_MEMORY), ignore_cleanup_errors=True) as name:
        aside = Path(name) / f".{_LOCK}"
        with aside.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            aside.rename(aside.with_name(_LOCK))  # nobody meets it unlocked
            yield Path(name)


def _parent(memory: Path) -> Path | None:
    """`memory` where it can be written, has room and is left alone; None: the system's folder for temporary files."""
    if os.environ.get("TMPDIR") or not os.access(memory, os.W_OK | os.X_OK) or _is_cleared_at_logout():
        return None
    free = os.statvfs(memory)
    return memory if free.f_bavail * free.f_frsize >= _LEAST_FREE_BYTES else None


def _is_cleared_at_logout() -> bool:
    """systemd removes what a user who is a person has in memory when the last session ends (`RemoveIPC`)."""
    return _SYSTEMD.is_dir() and os.getuid() > _LAST_SYSTEM_USER


def _remove_abandoned(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("rb") as held:  # another user's, one that is ending now, one in use
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
