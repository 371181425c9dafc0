from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .scene import Scene


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    await scene.close()


@pytest.fixture
async def warm_scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Keeps one earlier version warm."""
    scene = Scene(tmp_path, warm_previous=1)
    yield scene
    await scene.close()
