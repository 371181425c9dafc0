import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.api.engine_client import Router


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
