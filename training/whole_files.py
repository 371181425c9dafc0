"""Results on the disk: each appears whole, and one that a machine has damaged as it stopped is named."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

from safetensors import SafetensorError

from .errors import TrainingError

REMEDY: Final = "remove it and the same command makes it again"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` once its bytes are on the disk: else a machine that stops may keep the
    new name and lose what it names."""
    aside = path.with_name(f"{path.name}.writing")
    yield aside
    with aside.open("rb") as stream:
        os.fsync(stream.fileno())
    aside.replace(path)


@contextmanager
def intact(path: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Raises TrainingError, with what to do about it, where what is read of `path` is not what was written."""
    try:
        yield
    except (SafetensorError, BadZipFile, EOFError, ValueError):
        raise TrainingError(f"{path} is damaged; {remedy}") from None
