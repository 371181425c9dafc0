"""Redis followed in a thread, for an event loop."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store import Deployment, Sighting, Store, StoreDown
from service.supervisor.follower import Follower
from tests.service.plain_artifact import plain_artifact

pytestmark = pytest.mark.anyio


class FaultyOnce(Store):
    """A store that has a defect at first."""

    faults = 0

    def watch(self, stop: threading.Event, poll_s: float) -> Iterator[Sighting]:
        if not FaultyOnce.faults:
            FaultyOnce.faults = 1
            raise RuntimeError("nobody foresaw that")
        return super().watch(stop, poll_s)


async def test_after_a_fault_redis_is_followed_again(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path, "v1"))
    store.activate("v1")
    seen: asyncio.Queue[Sighting] = asyncio.Queue()
    follower = Follower(FaultyOnce(store.redis, store.keys), 0.01, seen.put_nowait)
    follower.start()
    first = await seen.get()
    assert isinstance(first, StoreDown)
    assert "nobody foresaw that" in first.reason
    assert await seen.get() == Deployment("v1", 1)
    await follower.stop(10.0)
