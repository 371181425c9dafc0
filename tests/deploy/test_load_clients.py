"""Client processes against the server that only answers."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest

from deploy.load.arrivals import Segment
from deploy.load.clients import Crew, Task, busiest, crew
from deploy.load.echo import echo_server
from deploy.load.record import Record

BODY = {"history": ["a"], "k": 3}


def run(use: Callable[[Crew, Record], Awaitable[None]], clients: int = 2, pause_ms: int = 0, **task: Any) -> Record:
    """What was recorded while `use` told the clients what to do."""

    async def whole() -> Record:
        record = Record()
        async with echo_server(3, pause_ms) as address:
            tasks = [Task(address, [BODY], seed, **task) for seed in range(clients)]
            async with crew(tasks, record.origin, record.hear) as started:
                await use(started, record)
        return record

    return asyncio.run(whole())


def test_clients_share_the_rate_and_their_counts_are_added() -> None:
    async def use(started: Crew, _record: Record) -> None:
        await started.follow([Segment(100.0, 1.0, "one"), Segment(20.0, 1.0, "two")])
        assert 0 < started.busy < 1

    record = run(use)
    assert record.part("one").answered == pytest.approx(100, abs=50)
    assert record.part("two").answered == pytest.approx(20, abs=20)
    assert record.whole().flawless
    assert sum(phase.answered for phase in record.timeline.windows.values()) == record.whole().answered
    assert record.whole().late.count == record.whole().answered


def test_the_busiest_client_is_not_the_average_one() -> None:
    assert busiest([1.0, 2.0, 2.0], [1.5, 2.0, 5.0], seconds=4.0) == 0.75


def test_answers_that_outlast_many_reports_are_counted_where_they_were_asked() -> None:
    async def use(started: Crew, _record: Record) -> None:
        await started.follow([Segment(100.0, 1.5)])

    record = run(use, pause_ms=1100)
    whole = record.whole()
    assert whole.answered == whole.late.count > 90
    assert whole.percentile_ms(0.0) >= 1100 * 0.997  # as exact as a sketch is
    spread = [number for number, phase in record.timeline.windows.items() if phase.answered]
    assert max(spread) - min(spread) <= 2  # in the windows of the 1.5 s in which they were asked


def test_one_plan_follows_the_other() -> None:
    async def use(started: Crew, record: Record) -> None:
        for name in ("first", "second"):
            await started.follow([Segment(50.0, 0.5, name)])
            assert record.part(name).answered > 3

    run(use)


def test_what_they_have_is_heard_when_a_plan_is_broken_off() -> None:
    async def use(started: Crew, _record: Record) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await started.follow([Segment(50.0, 600.0)])
        assert started.busy > 0

    begun = time.monotonic()
    assert run(use).whole().answered > 20
    assert time.monotonic() - begun < 60
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_the_end_of_a_client_is_noticed() -> None:
    async def use(started: Crew, _record: Record) -> None:
        follow = asyncio.create_task(started.follow([Segment(50.0, 600.0)]))
        await asyncio.sleep(0.5)
        children = psutil.Process().children()
        next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
        with pytest.raises(RuntimeError, match="ended unexpectedly"):
            await follow

    run(use)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_the_parents_to_obey(number: signal.Signals) -> None:
    async def use(started: Crew, record: Record) -> None:
        follow = asyncio.create_task(started.follow([Segment(50.0, 1.5, "before"), Segment(50.0, 0.5, "after")]))
        await asyncio.sleep(1.0)
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.send_signal(number)
        await follow
        assert record.part("after").answered > 3

    run(use)


def test_watched_items_are_seen_in_every_client() -> None:
    seen: list[str] = []

    async def use(started: Crew, record: Record) -> None:
        record.judge = lambda notes: seen.extend(item for note in notes for item in note.items)
        await started.follow([Segment(60.0, 1.0)])

    record = run(use, watched=frozenset({"item-00002", "other"}))
    assert seen == ["item-00002"] * record.whole().answered


def test_answers_that_are_not_the_known_ones_are_counted() -> None:
    async def use(started: Crew, _record: Record) -> None:
        await started.follow([Segment(60.0, 1.0)])

    record = run(use, known={("echo", 0): [["something else"]]})
    assert record.whole().mixed == record.whole().answered > 10
