import shutil
from pathlib import Path

import pytest

from models.artifact import Artifact, ArtifactWriter
from models.item_ids import ItemIds
from service.engine.catalog import Catalog
from service.engine.live import LiveSearch
from service.engine.startup import Engine, assemble
from service.settings import Settings

ENGINE_SETTINGS = Settings(provider="cpu", engine_threads=1, spare_items=40, filter_cache_bytes=1_048_576)


@pytest.fixture(scope="session")
def artifact(open_to_new_items: Artifact) -> Artifact:
    """60 items, histories of 6, beam widths 4 and 8; not to be written to."""
    return open_to_new_items


@pytest.fixture(scope="session")
def tiniest_artifact(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """5 items, fewer than the wider beam holds, and the graphs of `artifact`: nothing of the items is in them."""
    from tests.tiny import tiny_package

    package = tiny_package(items=5)
    with ArtifactWriter(tmp_path_factory.mktemp("tiniest") / "tiny-1") as writer:
        writer.catalog(package.codes, ItemIds.build(package.item_ids), package.metadata)
        for name in ("item_input", "item_output", "popularity"):
            writer.array(name, getattr(package, name))
        writer.prefix_output(package.prefix_output)
        writer.golden([])
        for path in artifact.folder.glob("search*"):
            shutil.copy(path, writer.folder)
        same = {"config", "beam_widths", "default_beam_width", "history_buckets", "rescore_weight", "dataset"}
        same |= {"training_fingerprint", "metrics", "tools"}
        return writer.commit(item_count=5, **artifact.manifest.model_dump(include=same))


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
