"""Settings and artifacts that tests share."""

import warnings

import pytest
import torch

from models.artifact import Artifact

# Tiny networks gain nothing from more threads, and spinning threads starve the processes other tests start.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def open_to_new_items(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny artifact that takes new items as text too, built once: exporting it is slow."""
    from tests.tiny import build_tiny_artifact

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sentence-transformers and its libraries warn of their own past
        return build_tiny_artifact(tmp_path_factory.mktemp("open"), with_text_encoder=True)
