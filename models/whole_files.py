"""Files and folders that appear whole: written aside, and named once their bytes are on the disk."""

import os
from pathlib import Path


def put_whole(aside: Path, target: Path) -> None:
    """Renames a file, or a folder with all that is in it, once its bytes are on the disk: else a machine that stops may
    keep the new name and lose what it names."""
    put_on_disk(aside)
    aside.replace(target)


def put_on_disk(written: Path) -> None:
    """Returns once the bytes of a file, or of a folder with all that is in it, are on the disk."""
    for path in (*written.rglob("*"), written):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
