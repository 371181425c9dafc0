import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.api.engine_client import Router
from service.store import Store
from tests.service.plain_artifact import plain_artifact


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the paths of sockets end at about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        yield Path(name)


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    router = Router(in_flight_limit=8)
    yield router
    await router.close()


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Store:
    """v1, v2 and v3 are there, v1 is active."""
    for seed, version in enumerate(("v1", "v2", "v3")):
        store.publish(plain_artifact(tmp_path, version, seed=seed))
    store.activate("v1")
    return store
