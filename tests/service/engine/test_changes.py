"""Whose turn it is on the catalog thread."""

import asyncio
import math
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.engine.batcher import Batcher
from service.engine.changes import Changes
from service.engine.live import LiveSearch
from service.errors import Draining


class Gated:
    """As much of a search as the catalog thread calls; what is compiled waits at a gate."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gate = threading.Event()
        self.newcomers = SimpleNamespace(on_text=None)

    def compile(self, slot: int, *_: Any) -> None:
        self.gate.wait(60)
        self.done.append(f"filter {slot}")

    def apply(self, revision: int, *_: Any) -> list[str]:
        self.done.append(f"change {revision}")
        return []


def changes_of(search: Gated) -> Changes:
    return Changes(cast("LiveSearch", search), cast("Batcher", None))


async def started(changes: Changes, slots: range) -> list["asyncio.Task[None]"]:
    """Compilations that have all been asked for."""
    tasks = [asyncio.create_task(changes.compile(slot, conditions=(), include_items=None)) for slot in slots]
    await asyncio.sleep(0)
    return tasks


def test_a_change_waits_for_one_filter_at_most() -> None:
    async def ordered(search: Gated) -> list[str]:
        changes = changes_of(search)
        filters = await started(changes, range(5))
        change = asyncio.create_task(changes.apply(7, [], {}))
        await asyncio.sleep(0)
        search.gate.set()
        await asyncio.gather(*filters, change)
        changes.close()
        return search.done

    assert asyncio.run(ordered(Gated())) == ["filter 0", "change 7", *(f"filter {slot}" for slot in range(1, 5))]


def test_filters_that_wait_when_the_thread_ends_are_refused() -> None:
    async def closed(search: Gated) -> None:
        changes = changes_of(search)
        running, *waiting = await started(changes, range(3))
        changes.close()
        search.gate.set()
        await running
        for one in waiting:
            with pytest.raises(Draining):
                await one

    asyncio.run(closed(Gated()))


def test_what_the_thread_does_begins_anew_with_every_text() -> None:
    async def story(search: Gated) -> None:
        changes = changes_of(search)
        assert changes.busy_s == 0
        (one,) = await started(changes, range(1))
        while changes._thread._began == math.inf:
            await asyncio.sleep(0.001)
        began = changes._thread._began
        search.newcomers.on_text()
        assert began < changes._thread._began < math.inf
        search.gate.set()
        await one
        assert changes.busy_s == 0
        changes.close()

    asyncio.run(story(Gated()))
