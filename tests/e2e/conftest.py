import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from models.artifact import Artifact
from service.store import Store

from .replica import RedisServer, Replica, replica, wait_until


@pytest.fixture(scope="session")
def first(open_to_new_items: Artifact) -> Artifact:
    return open_to_new_items


@pytest.fixture(scope="session")
def second(another_artifact: Artifact) -> Artifact:
    """The same item ids as `first`, other codes and other answers."""
    return another_artifact


@contextmanager
def own_redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        server = RedisServer(Path(folder))
        try:
            wait_until(server.socket.exists)
            yield server
        finally:
            server.kill()


@contextmanager
def both_published(server: RedisServer, first: Artifact, second: Artifact) -> Iterator[Store]:
    with closing(Store.connect(server.url, "prorec")) as store:
        store.publish(first)
        store.publish(second)
        store.activate(first.manifest.model_version)
        yield store


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def store(redis_server: RedisServer, first: Artifact, second: Artifact) -> Iterator[Store]:
    """Holds both models; `first` is active."""
    with both_published(redis_server, first, second) as store:
        yield store


@pytest.fixture(scope="module")
def steady(first: Artifact, second: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """One worker, with the first model loaded; for all tests that leave its models, items and processes as they are."""
    with (
        own_redis() as server,
        both_published(server, first, second),
        replica(redis_url=server.url, data_dir=tmp_path_factory.mktemp("steady")) as one,
    ):
        one.first_line()
        one.wait_for(status="ready")
        yield one
