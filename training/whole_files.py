"""Results on the disk: each appears whole, and one that a machine has damaged as it stopped is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

from safetensors import SafetensorError

from models.whole_files import put_whole

from .errors import TrainingError

REMEDY: Final = "remove it and the same command makes it again"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` once its bytes are on the disk (`put_whole`)."""
    aside = path.with_name(f"{path.name}.writing")
    yield aside
    put_whole(aside, path)


@contextmanager
def intact(path: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Raises TrainingError, with what to do about it, where what is read of `path` is not what was written."""
    try:
        yield
    except (SafetensorError, BadZipFile, EOFError, ValueError):
        raise TrainingError(f"{path} is damaged; {remedy}") from None
