"""The files in which processes count: what ended processes counted is kept in one archive, or they would add up.

`prometheus_client` gives every process files of its own and never takes one away. After hundreds of model swaps each
scrape would read hundreds of them.
"""

import fcntl
import logging
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import mark_process_dead

_SUMMED: Final = ("counter", "histogram")  # kinds whose values add up over processes
_LEAST_BYTES: Final = 1 << 16
_ENDED: Final = "ended"  # stands in the archive's name where a process id would

logger = logging.getLogger(__name__)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """No process is moved into the archive meanwhile, or a counter would jump. Blocks; not for an event loop."""
    with _locked(folder, fcntl.LOCK_SH):
        yield


def archive(folder: Path, pid: int) -> None:
    """Adds what the ended process counted to the archive and deletes its files. Blocks; not for an event loop."""
    with _locked(folder, fcntl.LOCK_EX):
        mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        for kind in _SUMMED:
            source = folder / f"{kind}_{pid}.db"
            if source.exists():
                _add(source, folder / f"{kind}_{_ENDED}.db")
                source.unlink()


def _add(source: Path, target: Path) -> None:
    """Raises OSError where the disk is full; a mapped file that had to grow there would end the process."""
    _allocate(target, source)
    sums: Any = MmapedDict(str(target))  # type: ignore[no-untyped-call]
    try:
        for key, value in _values(source):
            sums.write_value(key, sums.read_value(key)[0] + value, 0.0)
    finally:
        sums.close()


def _allocate(target: Path, source: Path) -> None:
    """Room in `target` for whatever `source` adds to it; room is a power of two, as `MmapedDict` doubles it."""
    target.touch()
    held = target.stat().st_size
    with target.open("r+b") as stream:  # not to append: where a file system cannot reserve, what stands in refuses that
        os.posix_fallocate(stream.fileno(), 0, max(held, _LEAST_BYTES))
        used = _used(target) + _used(source)
        if used > max(held, _LEAST_BYTES):
            os.posix_fallocate(stream.fileno(), 0, 1 << (used - 1).bit_length())


def _used(path: Path) -> int:
    """Bytes that hold something; a file's first four say it."""
    with path.open("rb") as stream:
        return int.from_bytes(stream.read(4), sys.byteorder)


def _values(path: Path) -> list[tuple[str, float]]:
    """What a process counted; a file it could not begin properly before it was killed holds nothing."""
    try:
        found: Any = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, _, _ in found]
    except (struct.error, RuntimeError, ValueError) as error:
        logger.warning("what is counted in %s cannot be read: %s", path.name, error)
        return []


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, how)
        yield
