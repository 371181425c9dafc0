"""Files and folders that appear whole: written aside, and named once their bytes are on the disk."""

import os
from pathlib import Path


def put_whole(aside: Path, target: Path) -> None:
    """Renames a file, or a folder with all that is in it, once its bytes are on the disk: else a machine that stops may
    keep the new name and lose what it names."""
    for path in (*aside.rglob("*"), aside):
        _sync(path)
    aside.replace(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
