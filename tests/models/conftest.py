"""An artifact that takes new items, built once: exporting it is the slow part of these tests."""

import warnings

import pytest

from models.artifact import Artifact
from tests.tiny import build_tiny_artifact


@pytest.fixture(scope="session")
def open_to_new_items(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """With a text encoder; sentence-transformers and its libraries warn of their own past."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_tiny_artifact(tmp_path_factory.mktemp("open"), with_text_encoder=True)
