"""Queries survive the ends of engines, and no query can end more than three of them."""

import asyncio
import gc
import itertools
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from service.api.control import Route, Routes
from service.api.engine_client import Router, Served
from service.api.engine_link import EngineClient, EngineLost
from service.errors import DeadlineExceeded, EngineCrashed, EngineFailed, NotReady, Overloaded, ServiceError
from service.frames import Answer, Query

from .little_engine import Behaviour, Die, answer, deadly, engine, failing, info, routes, silent

pytestmark = pytest.mark.anyio


def query(router: Router, *history: str, timeout_s: float = 30.0) -> Query:
    return Query(router.next_id(), list(history), 2, time.monotonic() + timeout_s)


async def outcome(task: "asyncio.Task[Served]") -> "Served | BaseException":
    (result,) = await asyncio.gather(task, return_exceptions=True)
    return result


def ask(router: Router, *history: str, **options: Any) -> "asyncio.Task[Served]":
    return asyncio.create_task(router.ask(query(router, *history, **options)))


async def test_an_answer_names_the_engine_it_came_from(router: Router, folder: Path) -> None:
    async with engine(folder, version="v7") as little:
        await router.switch(routes(little))
        served = await router.ask(query(router, "a"))
    assert (served.answer.item_ids, served.info.model_version) == (["a-0", "a-1"], "v7")


async def test_answers_in_any_order_reach_their_own_queries(router: Router, folder: Path) -> None:
    async with engine(folder, silent) as little:
        await router.switch(routes(little))
        tasks = [ask(router, name) for name in ("a", "b", "c")]
        await little.wait_for(lambda: len(little.queries) == 3)
        for asked in reversed(little.queries):
            little.reply(answer(asked))
        served = await asyncio.gather(*tasks)
    assert [one.answer.item_ids[0] for one in served] == ["a-0", "b-0", "c-0"]


async def test_a_retired_connection_ends_in_order_though_nothing_refers_to_it(folder: Path) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with engine(folder) as little:
        client = await EngineClient.connect(little.route)
        await asyncio.sleep(0)  # it reads
        client.retire()
        del client
        gc.collect()
        await asyncio.sleep(0.01)
    assert not faults


async def test_a_query_in_flight_goes_to_the_successor(router: Router, folder: Path) -> None:
    async with engine(folder, deadly) as first, engine(folder, version="v2") as second:
        await router.switch(routes(first))
        asked = ask(router, "a")
        await first.wait_for(lambda: bool(first.queries))
        await router.switch(routes(second))
        assert (await asked).info.model_version == "v2"
    assert not second.queries[0].alone


async def test_a_query_that_ends_three_engines_fails_and_the_third_ran_it_alone(router: Router, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(engine(folder, deadly)) for _ in range(3)]
        healthy = await stack.enter_async_context(engine(folder))
        await router.switch(routes(engines[0]))
        asked = ask(router, "poison")
        for little, successor in zip(engines, [*engines[1:], healthy], strict=True):
            await little.wait_for(lambda little=little: bool(little.queries))  # type: ignore[misc]
            await router.switch(routes(successor))
        with pytest.raises(EngineCrashed):
            await asked
    assert [[one.alone for one in little.queries] for little in engines] == [[False], [False], [True]]
    assert not healthy.queries


def dies_of_poison(together: int) -> Behaviour:
    """An engine that a poisoned query ends: at once if it runs alone, else when its batch of `together` is complete."""
    heard: list[Query] = []

    def behave(asked: Query) -> Answer | None:
        heard.append(asked)
        poisoned = ["poison"] in [one.history for one in heard]
        if poisoned and (asked.alone or len(heard) == together):
            raise Die
        return answer(asked) if asked.alone else None

    return behave


async def test_queries_beside_a_poisoned_one_are_answered(router: Router, folder: Path) -> None:
    """Behind a suspect that runs alone the others wait unsent, so its crash is not counted against them."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(engine(folder, dies_of_poison(3))) for _ in range(4)]
        await router.switch(routes(engines[0]))
        poisoned, *innocent = [ask(router, name) for name in ("poison", "a", "b")]
        for little, successor in itertools.pairwise(engines):
            await little.wait_for(lambda little=little: little.dead)  # type: ignore[misc]
            await router.switch(routes(successor))
        assert isinstance(await outcome(poisoned), EngineCrashed)
        served = await asyncio.gather(*innocent)
    assert [one.answer.item_ids[0] for one in served] == ["a-0", "b-0"]


async def test_a_connection_that_a_failed_write_has_closed_takes_no_more_queries(router: Router, folder: Path) -> None:
    """The loop tells of it only later, and until then uvloop would raise RuntimeError for another write."""
    async with engine(folder) as little:
        client = await EngineClient.connect(little.route)
        client._transport.abort()
        assert client.gone
        with pytest.raises(EngineLost):
            await client.ask(query(router, "a"))
        await client.close()


async def test_closing_survives_a_cancellation_of_whoever_waits_for_it(folder: Path) -> None:
    async with engine(folder) as little:
        client = await EngineClient.connect(little.route)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await client.close()


async def test_after_a_switch_new_queries_go_to_the_new_engine_and_old_ones_are_answered_by_the_old(
    router: Router, folder: Path
) -> None:
    async with engine(folder, silent, "v1") as old, engine(folder, version="v2") as new:
        await router.switch(routes(old))
        before = ask(router, "a")
        await old.wait_for(lambda: bool(old.queries))
        await router.switch(routes(new))
        assert (await router.ask(query(router, "b"))).info.model_version == "v2"
        old.reply(answer(old.queries[0]))
        assert (await before).info.model_version == "v1"
    assert [one.history for one in old.queries] == [["a"]]


async def test_a_query_too_late_for_a_draining_engine_goes_to_its_successor(router: Router, folder: Path) -> None:
    async with engine(folder, failing("draining")) as old, engine(folder, version="v2") as new:
        await router.switch(routes(old))
        asked = ask(router, "a")
        await old.wait_for(lambda: bool(old.queries))
        await router.switch(routes(new))
        assert (await asked).info.model_version == "v2"


async def test_a_switch_to_an_engine_that_died_meanwhile_waits_for_the_next(router: Router, folder: Path) -> None:
    await router.switch(Routes(1, Route(str(folder / "nobody"), info())))
    asked = ask(router, "a")
    async with engine(folder, version="v2") as little:
        await router.switch(routes(little))
        assert (await asked).info.model_version == "v2"


async def test_a_cancelled_call_cancels_the_query(router: Router, folder: Path) -> None:
    async with engine(folder, silent) as little:
        await router.switch(routes(little))
        asked = ask(router, "a")
        await little.wait_for(lambda: bool(little.queries))
        asked.cancel()
        await little.wait_for(lambda: bool(little.cancelled))
    assert little.cancelled == [little.queries[0].query_id]


async def test_a_passed_deadline_is_an_error_and_cancels_the_query(router: Router, folder: Path) -> None:
    async with engine(folder, silent) as little:
        await router.switch(routes(little))
        with pytest.raises(DeadlineExceeded, match=r"within the \d+ ms that timeout_ms left"):
            await router.ask(query(router, "a", timeout_s=0.05))
        await little.wait_for(lambda: bool(little.cancelled))


async def test_a_deadline_without_a_successor_says_so(router: Router, folder: Path) -> None:
    await router.switch(Routes(1, Route(str(folder / "nobody"), info())))
    with pytest.raises(DeadlineExceeded, match="successor"):
        await router.ask(query(router, "a", timeout_s=0.05))


async def test_with_nothing_loaded_a_query_fails_at_once(router: Router) -> None:
    with pytest.raises(NotReady):
        await router.ask(query(router, "a"))


async def test_above_the_limit_a_query_is_refused_and_its_place_is_free_again_later(folder: Path) -> None:
    router = Router(in_flight_limit=1)
    async with engine(folder, silent) as little:
        await router.switch(routes(little))
        first = ask(router, "a")
        await little.wait_for(lambda: bool(little.queries))
        with pytest.raises(Overloaded):
            await router.ask(query(router, "b"))
        little.behaviour = answer
        little.reply(answer(little.queries[0]))
        await first
        assert await router.ask(query(router, "c"))
        await router.close()


@pytest.mark.parametrize(
    ("code", "error"), [("overloaded", Overloaded), ("engine_failed", EngineFailed), ("from the future", EngineFailed)]
)
async def test_a_failure_becomes_its_error(router: Router, folder: Path, code: str, error: type[ServiceError]) -> None:
    async with engine(folder, failing(code, "because")) as little:
        await router.switch(routes(little))
        with pytest.raises(error, match="because"):
            await router.ask(query(router, "a"))
