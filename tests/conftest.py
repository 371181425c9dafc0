"""Settings and artifacts that tests share."""

import fcntl
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from models.artifact import Artifact

# Tiny networks gain nothing from more threads, and spinning threads starve the processes other tests start.
torch.set_num_threads(1)

# The same examples every time, so that a failure belongs to a change; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

BuildOnce = Callable[..., Artifact]

# Files that take longest, which come first: no process is to begin one when the others have nothing left to do.
LONGEST = (
    "e2e/test_service.py",
    "training/test_pipeline.py",
    "deploy/test_bench_gpu.py",
    "training/test_study.py",
    "service/engine/test_million.py",
    "deploy/test_load_scenarios.py",
    "training/test_loop.py",
    "training/test_refit.py",
    "e2e/test_versions.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    assert all(path.exists() for path in ranks)
    items.sort(key=lambda item: ranks.get(item.path, len(LONGEST)))


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """`build_tiny_artifact` below a folder of that name; for all processes that share the tests, as exporting is slow.

    What it returns is not to be written to.
    """
    from tests.tiny import build_tiny_artifact

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def build(name: str, version: str, **options: Any) -> Artifact:
        folder: Path = shared / f"built-{name}"
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / version).exists():
                return Artifact.open(folder / version)
            return build_tiny_artifact(folder, version=version, **options)

    return build


@pytest.fixture(scope="session")
def open_to_new_items(build_once: BuildOnce) -> Artifact:
    """tiny-1: 60 items, histories of 6, beam widths 4 and 8; takes new items as text too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sentence-transformers and its libraries warn of their own past
        return build_once("open", "tiny-1", with_text_encoder=True)


@pytest.fixture(scope="session")
def another_artifact(build_once: BuildOnce) -> Artifact:
    """tiny-2: the same item ids as tiny-1, codes of two tokens and other answers."""
    return build_once("another", "tiny-2", seed=2, code_length=2, tokens_per_level=16)


@pytest.fixture(scope="session")
def encoder_decoder_artifact(build_once: BuildOnce) -> Artifact:
    """tiny-1 with the other generator."""
    return build_once("encoder-decoder", "tiny-1", generator="encoder_decoder")


@pytest.fixture(scope="session")
def by_generator(open_to_new_items: Artifact, encoder_decoder_artifact: Artifact) -> dict[str, Artifact]:
    """Both kinds of generator, by name."""
    return {"temporal": open_to_new_items, "encoder_decoder": encoder_decoder_artifact}
