import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.artifact import Artifact
from service.store import Store

from .replica import RedisServer


@pytest.fixture(scope="session")
def first(open_to_new_items: Artifact) -> Artifact:
    return open_to_new_items


@pytest.fixture(scope="session")
def second(another_artifact: Artifact) -> Artifact:
    """The same item ids as `first`, other codes and other answers."""
    return another_artifact


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
