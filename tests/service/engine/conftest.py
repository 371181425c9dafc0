from pathlib import Path

import pytest

from models.artifact import Artifact
from service.engine.catalog import Catalog
from service.engine.live import LiveSearch
from service.engine.startup import Engine, assemble
from service.settings import Settings
from tests.conftest import BuildOnce

ENGINE_SETTINGS = Settings(provider="cpu", engine_threads=1, spare_items=40, filter_cache_bytes=1_048_576)


@pytest.fixture(scope="session")
def artifact(open_to_new_items: Artifact) -> Artifact:
    """60 items, histories of 6, beam widths 4 and 8; not to be written to."""
    return open_to_new_items


@pytest.fixture(scope="session")
def tiniest_artifact(build_once: BuildOnce) -> Artifact:
    """5 items: fewer than the wider beam holds."""
    return build_once("tiniest", "tiny-1", items=5)


@pytest.fixture(scope="session")
def engine(artifact: Artifact) -> Engine:
    """Cold; its catalog is not to be changed."""
    return assemble(artifact, ENGINE_SETTINGS)


@pytest.fixture(scope="session")
def catalog(engine: Engine) -> Catalog:
    return engine.catalog


@pytest.fixture(scope="session")
def search(engine: Engine) -> LiveSearch:
    return engine.search


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "e.sock"
