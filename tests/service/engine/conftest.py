from pathlib import Path

import pytest

from models.artifact import Artifact
from service.engine.catalog import Catalog
from service.engine.search import GraphSearch
from tests.tiny import build_tiny_artifact


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """60 items, histories of 6, beam widths 4 and 8; not to be written to."""
    return build_tiny_artifact(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="session")
def tiniest_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """5 items: fewer than the wider beam holds."""
    return build_tiny_artifact(tmp_path_factory.mktemp("artifacts"), items=5)


@pytest.fixture(scope="session")
def catalog(artifact: Artifact) -> Catalog:
    return Catalog(artifact)


@pytest.fixture(scope="session")
def search(artifact: Artifact) -> GraphSearch:
    return GraphSearch(artifact, "cpu", 1)


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "e.sock"
