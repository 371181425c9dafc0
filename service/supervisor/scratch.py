"""The folder of a replica's sockets and metrics, which ends with it; a killed one's is removed by the next replica."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "prorec-"
_LOCK: Final = "owner.lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder below the system's one for temporary files, short enough for addresses of sockets.

    Its lock is held by this process and whatever it forks, so the folder lasts as long as any of them.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        aside = Path(name) / f".{_LOCK}"
        with aside.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            aside.rename(aside.with_name(_LOCK))  # nobody meets it unlocked
            yield Path(name)


def _remove_abandoned(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("rb") as held:  # another user's, one that is ending now, one in use
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
