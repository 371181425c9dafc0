"""Blocking calls beside the event loop."""

import asyncio
import threading

import pytest

from service.errors import StoreUnavailable
from service.supervisor.aside import aside


def test_a_call_aside_returns_and_raises_as_it_is() -> None:
    def fail() -> None:
        raise StoreUnavailable("Redis is off")

    assert asyncio.run(aside(divmod, 7, 2)) == (3, 1)
    with pytest.raises(StoreUnavailable, match="Redis is off"):
        asyncio.run(aside(fail))


def test_the_end_of_an_event_loop_waits_for_no_call() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait()

    async def leave() -> None:
        call = asyncio.create_task(aside(hang))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        call.cancel()

    asyncio.run(leave())
    go_on.set()
