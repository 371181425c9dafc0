"""What a machine leaves that stopped while a result was written."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from training.config import load_config
from training.errors import TrainingError
from training.pipeline import Run
from training.whole_files import written_whole

from .ring import ring_settings


def begun(ring: Path, out: Path) -> Run:
    return Run(ring / "data", out, load_config("quickstart", [*ring_settings(ring / "text.npy"), "stage1.epochs=1"]))


@pytest.fixture(scope="module")
def work(ring: Path) -> Path:
    """The working folder of a run that has its codes."""
    run = begun(ring, ring / "begun-1")
    run.codes()
    return run.work


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["empty", "cut"])
@pytest.mark.parametrize(
    "name", ["config.json", "data.json", "text.npz", "stage1.safetensors", "embeddings.npz", "codes.npz"]
)
def test_a_damaged_result_is_named_and_made_again_once_it_is_gone(
    ring: Path, work: Path, tmp_path: Path, name: str, share: float
) -> None:
    shutil.copytree(work, tmp_path / "v1.work")
    path = tmp_path / "v1.work" / name
    written = path.read_bytes()
    path.write_bytes(written[: int(share * len(written))])
    with pytest.raises(TrainingError, match=f"{path} is damaged; remove it and the same command makes it again"):
        begun(ring, tmp_path / "v1").codes()
    path.unlink()
    with np.load(work / "codes.npz") as codes:
        assert np.array_equal(begun(ring, tmp_path / "v1").codes().tokens, codes["tokens"])
    assert path.exists()


def write(path: Path, text: str, error: BaseException | None = None) -> None:
    with written_whole(path) as aside:
        aside.write_text(text)
        if error:
            raise error


def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        write(path, "after, but for", KeyboardInterrupt())
    assert path.read_text() == "before"
    write(path, "after")
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]
