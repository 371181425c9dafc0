"""Settings and artifacts that tests share."""

import os
import warnings

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


@pytest.fixture(scope="session")
def open_to_new_items(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny artifact that takes new items as text too, built once: exporting it is slow."""
    from tests.tiny import build_tiny_artifact

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sentence-transformers and its libraries warn of their own past
        return build_tiny_artifact(tmp_path_factory.mktemp("open"), with_text_encoder=True)
