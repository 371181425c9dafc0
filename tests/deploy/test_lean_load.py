"""Blocks of questions: what makes a rate, and what ends them."""

import asyncio
import time

import pytest

from deploy.errors import BenchError
from deploy.lean_client import Done
from deploy.lean_load import arrive, keep_busy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


class Engine:
    """Answers every question as soon as it can, and all from the `good`-th on with no."""

    def __init__(self, good: int) -> None:
        self.asked: list[int] = []
        self._good = good

    def ask(self, number: int, done: Done) -> None:
        self.asked.append(number)
        asyncio.get_running_loop().call_soon(done, len(self.asked) <= self._good)


async def test_a_number_of_questions_is_asked() -> None:
    engine = Engine(good=100)
    answers = await keep_busy(engine.ask, 3, count=10)
    assert engine.asked == list(range(1, 11))
    assert len(answers.latencies) == 10


async def test_what_comes_after_the_end_makes_no_rate() -> None:
    held, loop, until = list[Done](), asyncio.get_running_loop(), time.monotonic() + 0.2

    def ask(_: int, done: Done) -> None:
        held.append(done)
        loop.call_at(loop.time() + 0.5, done, True)

    answers = await keep_busy(ask, 4, until=until)
    assert (len(answers.latencies), answers.in_time, len(held)) == (4, 0, 4)


async def test_what_comes_in_time_makes_one_and_is_asked_again() -> None:
    engine = Engine(good=1000)
    with pytest.raises(BenchError, match="request 1001 of a block"):
        await keep_busy(engine.ask, 4, until=time.monotonic() + 3600)
    assert len(engine.asked) == 1004  # what was in flight


async def test_the_first_that_is_no_recommendation_ends_a_block() -> None:
    engine = Engine(good=5)
    with pytest.raises(BenchError, match="request 6 of a block was not answered by a recommendation"):
        await keep_busy(engine.ask, 2, count=100)
    with pytest.raises(BenchError, match="request 1 of a block"):
        await arrive(engine.ask, [0.0] * 3 + [0.1, 3600.0], time.monotonic())


async def test_arrivals_do_not_wait_for_answers_and_count_from_when_they_were_due() -> None:
    held = list[Done]()
    begins = time.monotonic() - 100

    def ask(number: int, done: Done) -> None:
        held.append(done)
        if number == 5:
            for one in held:
                one(True)

    latencies = await arrive(ask, [0.0, 1.0, 2.0, 3.0, 50.0], begins)
    assert len(latencies) == 5
    assert latencies[0] >= 100
    assert latencies[-1] >= 50
