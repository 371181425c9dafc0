import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.artifact import Artifact
from service.store import Store
from tests.tiny import build_tiny_artifact

from .replica import RedisServer


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build_tiny_artifact(tmp_path_factory.mktemp("artifacts"), version="tiny-1", seed=1)


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same item ids as `first`, other codes and other answers."""
    return build_tiny_artifact(tmp_path_factory.mktemp("artifacts"), version="tiny-2", seed=2)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.kill()


@pytest.fixture
def store(redis_server: RedisServer, first: Artifact, second: Artifact) -> Iterator[Store]:
    """Holds both models; `first` is active."""
    store = Store.connect(redis_server.url, "prorec")
    while not redis_server.socket.exists():
        pass
    store.publish(first)
    store.publish(second)
    store.activate(first.manifest.model_version)
    yield store
    store.close()
