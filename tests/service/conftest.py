"""A real Redis for all tests of the service, and a store of its own for each."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from service.embedded_redis import embedded_redis
from service.store import Store


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that lives as long as the test run; shared, so do not flush or reconfigure it."""
    with embedded_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def store(redis_server: str) -> Iterator[Store]:
    """An empty store: a namespace that no other test has."""
    with closing(Store.connect(redis_server, f"test-{uuid4().hex}")) as empty:
        yield empty


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Store]:
    """A store on a server of its own, to be reconfigured and flushed."""
    with embedded_redis(tmp_path / "own") as url, closing(Store.connect(url, "prorec")) as store:
        yield store
