"""The route beside the framework says what the framework would have said."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.api.connected import WhileConnected
from service.api.engine_client import Router

from .client import client_of

pytestmark = pytest.mark.anyio


async def test_other_methods_are_refused_by_the_framework(router: Router) -> None:
    async with client_of(router) as client:
        refused = await client.get("/recommend")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["code"] == "method_not_allowed"
    assert refused.headers["x-request-id"] == refused.json()["request_id"]


async def test_work_ends_when_the_client_goes() -> None:
    gone = asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    asyncio.get_running_loop().call_later(0.01, gone.set)
    with pytest.raises(ClientDisconnect), WhileConnected(receive):
        await asyncio.sleep(30)


async def test_a_cancellation_by_others_stays_one() -> None:
    async def receive() -> Message:
        return await asyncio.Future()

    async def work() -> None:
        with WhileConnected(receive):
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_quick_work_is_not_watched_over() -> None:
    asked = []

    async def receive() -> Message:
        asked.append(True)
        return {"type": "http.disconnect"}

    with WhileConnected(receive):
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    assert not asked
