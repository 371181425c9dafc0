"""What tests of training share."""

from pathlib import Path

import pytest

from .ring import write_ring, write_text_embeddings


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset `data` and the text embeddings `text.npy`."""
    folder = tmp_path_factory.mktemp("ring")
    write_ring(folder / "data")
    write_text_embeddings(folder / "text.npy")
    return folder
