import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.graph import SearchRow
from models.trie import DeadStates
from service.engine.batcher import Batcher
from service.engine.catalog import FoundRow
from service.engine.search import Found, Shape, dead_class
from service.errors import DeadlineExceeded, Draining, EngineFailed, Overloaded, ServiceError

POISON = 666
NARROW, WIDE = Shape(width=4, bucket=8), Shape(width=8, bucket=8)


class SumSearch:
    """Finds the items that follow the sum of the history; `gate` holds a run until the test lets it go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.lost = False

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> Found:
        sums = np.array([row.history.sum() for row in rows], dtype=np.int32)
        self.batches.append(sums.tolist())
        self.running.set()
        self.gate.wait()
        if self.lost or POISON in sums:
            raise RuntimeError("no such sum")
        item = np.add.outer(sums, np.arange(shape.width)).astype(np.int32)
        score = np.negative(item, dtype=np.float32)
        trail = np.repeat(score[..., None], 2, axis=2)
        return Found(item, score, score, trail, item >= 0, run_s=0.0)

    async def hold(self, batcher: Batcher) -> "asyncio.Future[FoundRow]":
        """Occupies the search thread until `gate` is set."""
        self.gate.clear()
        self.running.clear()
        future = ask(batcher, 0)
        await asyncio.to_thread(self.running.wait)
        return future


def row(total: int) -> SearchRow:
    return SearchRow(np.array([total], dtype=np.int32))


def soon() -> float:
    return time.monotonic() + 60.0


def ask(batcher: Batcher, total: int, shape: Shape = NARROW) -> "asyncio.Future[FoundRow]":
    return batcher.submit(row(total), shape, soon())


def first_item(place: FoundRow) -> int:
    return int(place.item[0])


def run(
    story: Callable[[SumSearch, Batcher], Awaitable[None]], *, queue_limit: int = 100, max_rows: int = 64
) -> SumSearch:
    """Plays a story with a started batcher and lets its thread end."""
    search = SumSearch()

    async def play() -> None:
        batcher = Batcher(search, queue_limit=queue_limit, max_rows=max_rows)
        ended = batcher.start()
        try:
            await story(search, batcher)
        finally:
            search.gate.set()
            batcher.close()
            await asyncio.wait([ended])
            ended.exception()

    asyncio.run(play())
    return search


def test_an_idle_batcher_runs_a_row_without_waiting_for_others() -> None:
    async def story(_: SumSearch, batcher: Batcher) -> None:
        place = await ask(batcher, 5)
        assert place.item.tolist() == [5, 6, 7, 8]
        assert place.batch_rows == 1

    run(story)


def test_rows_that_come_during_a_run_share_the_next_batch() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        first = await search.hold(batcher)
        rest = [ask(batcher, total) for total in range(1, 6)]
        search.gate.set()
        assert [first_item(place) for place in await asyncio.gather(first, *rest)] == [0, 1, 2, 3, 4, 5]

    assert run(story).batches == [[0], [1, 2, 3, 4, 5]]


def test_a_batch_holds_one_shape_and_the_oldest_row_chooses_it() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        waiting = [ask(batcher, 1, WIDE), ask(batcher, 2), ask(batcher, 3, WIDE), ask(batcher, 4)]
        search.gate.set()
        assert [len(place.item) for place in await asyncio.gather(*waiting)] == [8, 4, 8, 4]

    assert run(story).batches == [[0], [1, 3], [2, 4]]


def test_a_batch_is_bounded_by_rows() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        waiting = [ask(batcher, total) for total in range(1, 6)]
        search.gate.set()
        await asyncio.gather(*waiting)

    assert run(story, max_rows=2).batches == [[0], [1, 2], [3, 4], [5]]


def test_a_row_sent_alone_shares_no_batch() -> None:
    alone = Shape(width=4, bucket=8, alone=True)

    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        waiting = [ask(batcher, 1, alone), ask(batcher, 2), ask(batcher, 3, alone), ask(batcher, 4)]
        search.gate.set()
        await asyncio.gather(*waiting)

    assert run(story).batches == [[0], [1], [2, 4], [3]]


@pytest.mark.parametrize(("states", "dead", "rows"), [(0, 64, 64), (64, 64, 64), (65, 512, 8), (10_000, 32_768, 1)])
def test_rows_with_many_dead_states_come_in_smaller_batches(states: int, dead: int, rows: int) -> None:
    zeros = np.zeros(states, dtype=np.int32)
    found = dead_class(SearchRow(zeros[:0], (DeadStates(zeros[:0], zeros[:0]), DeadStates(zeros, zeros))))
    assert found == dead
    assert Shape(4, 8, dead=found).most_rows(64) == rows


def test_a_deadline_that_has_passed_on_arrival_is_refused() -> None:
    async def story(_: SumSearch, batcher: Batcher) -> None:
        with pytest.raises(DeadlineExceeded):
            batcher.submit(row(1), NARROW, time.monotonic())

    assert run(story).batches == []


def test_a_row_whose_deadline_passes_in_the_queue_costs_no_compute() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        deadline = time.monotonic() + 0.01
        late, early = batcher.submit(row(1), NARROW, deadline), ask(batcher, 2)
        while time.monotonic() <= deadline:
            await asyncio.sleep(0.005)
        search.gate.set()
        assert first_item(await early) == 2
        with pytest.raises(DeadlineExceeded):
            await late

    assert run(story).batches == [[0], [2]]


def test_a_full_queue_refuses_at_once_and_a_cancelled_row_makes_room() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        waiting = [ask(batcher, 1), ask(batcher, 2)]
        with pytest.raises(Overloaded):
            ask(batcher, 3)
        waiting[0].cancel()
        await asyncio.sleep(0)
        last = ask(batcher, 4)
        search.gate.set()
        assert first_item(await last) == 4

    assert run(story, queue_limit=2).batches == [[0], [2, 4]]


def test_a_row_cancelled_while_it_runs_harms_nobody() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        running = await search.hold(batcher)
        running.cancel()
        search.gate.set()
        assert first_item(await ask(batcher, 7)) == 7

    run(story)


def test_a_poisoned_row_fails_alone() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        waiting = [ask(batcher, 1), ask(batcher, POISON), ask(batcher, 2)]
        search.gate.set()
        good, bad, other = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(good, FoundRow)
        assert isinstance(other, FoundRow)
        assert (first_item(good), first_item(other)) == (1, 2)
        assert isinstance(bad, EngineFailed)

    assert run(story).batches == [[0], [1, POISON, 2], [1], [POISON], [2]]


def test_a_poisoned_row_that_came_alone_does_not_stop_the_engine() -> None:
    async def story(_: SumSearch, batcher: Batcher) -> None:
        with pytest.raises(EngineFailed):
            await ask(batcher, POISON)
        assert first_item(await ask(batcher, 3)) == 3

    run(story)


def test_a_lost_device_sends_every_row_to_a_successor_and_ends_the_thread() -> None:
    async def play() -> None:
        search = SumSearch()
        batcher = Batcher(search, queue_limit=100, max_rows=2)
        ended = batcher.start()
        held = await search.hold(batcher)
        waiting = [ask(batcher, total) for total in range(1, 6)]
        search.lost = True
        search.gate.set()
        for outcome in await asyncio.gather(held, *waiting, return_exceptions=True):
            assert isinstance(outcome, Draining)
        with pytest.raises(RuntimeError, match="no such sum"):
            await ended
        with pytest.raises(Draining):
            ask(batcher, 1)

    asyncio.run(play())


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        waiting = [ask(batcher, 1), ask(batcher, 2, WIDE)]
        batcher.close()
        with pytest.raises(Draining):
            ask(batcher, 3)
        search.gate.set()
        assert [first_item(place) for place in await asyncio.gather(*waiting)] == [1, 2]

    run(story)


def test_an_action_on_an_idle_batcher_runs_at_once() -> None:
    async def story(_: SumSearch, batcher: Batcher) -> None:
        threads: list[str] = []
        await asyncio.wrap_future(batcher.between(lambda: threads.append(threading.current_thread().name)))
        assert threads == ["search"]

    run(story)


def test_an_action_runs_after_the_batch_that_runs_and_before_the_next() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        held = await search.hold(batcher)
        waiting = ask(batcher, 1)
        done = batcher.between(lambda: search.batches.append([-1]))
        await asyncio.sleep(0.01)
        assert not done.done()
        search.gate.set()
        await asyncio.gather(held, waiting, asyncio.wrap_future(done))

    assert run(story).batches == [[0], [-1], [1]]


def test_actions_that_ask_for_actions_do_not_starve_the_rows() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        def again() -> None:
            search.batches.append([-1])
            if len(search.batches) < 6:
                batcher.between(again)

        held = await search.hold(batcher)
        waiting = [ask(batcher, 1), ask(batcher, 2, WIDE)]
        batcher.between(again)
        search.gate.set()
        await asyncio.gather(held, *waiting)

    assert run(story).batches[:5] == [[0], [-1], [1], [-1], [2]]


def test_an_action_that_fails_tells_whoever_asked_for_it_and_nobody_else() -> None:
    async def story(_: SumSearch, batcher: Batcher) -> None:
        def fail() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await asyncio.wrap_future(batcher.between(fail))
        assert first_item(await ask(batcher, 3)) == 3

    run(story)


def test_after_the_end_actions_are_refused_and_those_that_wait_still_run() -> None:
    async def play() -> None:
        search = SumSearch()
        batcher = Batcher(search, queue_limit=100, max_rows=2)
        ended = batcher.start()
        await search.hold(batcher)
        before = batcher.between(lambda: None)
        batcher.close()
        search.gate.set()
        await ended
        before.result(timeout=0)
        with pytest.raises(Draining):
            batcher.between(lambda: None).result(timeout=0)

    asyncio.run(play())


def test_a_row_is_brought_up_to_date_before_it_runs() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        future = batcher.submit(row(1), NARROW, soon(), lambda: (row(10), NARROW))
        other = ask(batcher, 2)
        search.gate.set()
        assert [first_item(place) for place in await asyncio.gather(future, other)] == [10, 2]

    assert run(story).batches == [[0], [10, 2]]


def test_a_row_that_takes_another_shape_runs_next_with_its_like() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        await search.hold(batcher)
        changes = [(row(10), WIDE)]
        future = batcher.submit(row(1), NARROW, soon(), lambda: changes.pop() if changes else None)
        others = [ask(batcher, 2), ask(batcher, 3, WIDE), ask(batcher, 4)]
        search.gate.set()
        place, *_ = await asyncio.gather(future, *others)
        assert place.item.tolist() == list(range(10, 18))

    assert run(story).batches == [[0], [2, 4], [10, 3]]


def test_a_row_that_cannot_be_brought_up_to_date_fails_alone() -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        def fail() -> None:
            raise RuntimeError("gone")

        await search.hold(batcher)
        future, other = batcher.submit(row(1), NARROW, soon(), fail), ask(batcher, 2)
        search.gate.set()
        assert first_item(await other) == 2
        with pytest.raises(EngineFailed):
            await future

    assert run(story).batches == [[0], [2]]


def test_what_a_row_holds_is_released_once_whatever_becomes_of_it() -> None:
    released: list[str] = []

    async def story(search: SumSearch, batcher: Batcher) -> None:
        def submit(name: str, total: int, deadline: float) -> "asyncio.Future[FoundRow]":
            return batcher.submit(row(total), NARROW, deadline, released=lambda: released.append(name))

        search.gate.clear()
        search.running.clear()
        running = submit("cancelled while it ran", 1, soon())
        await asyncio.to_thread(search.running.wait)
        running.cancel()
        await asyncio.sleep(0)
        assert released == []
        waiting = submit("cancelled while it waited", 2, soon())
        late = submit("late", 3, time.monotonic() + 0.01)
        rest = [submit("found", 4, soon()), submit("poisoned", POISON, soon())]
        waiting.cancel()
        await asyncio.sleep(0.02)
        assert released == ["cancelled while it waited"]
        search.gate.set()
        await asyncio.gather(late, *rest, return_exceptions=True)

    run(story)
    assert sorted(released) == sorted(
        ["cancelled while it ran", "cancelled while it waited", "late", "found", "poisoned"]
    )


ACTIONS = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, POISON]), st.sampled_from([NARROW, WIDE]), st.booleans(), st.booleans()),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(ACTIONS)
def test_every_row_gets_exactly_one_outcome_and_it_is_its_own(actions: list[tuple[int, Shape, bool, bool]]) -> None:
    async def story(search: SumSearch, batcher: Batcher) -> None:
        asked: list[tuple[int, Shape, asyncio.Future[FoundRow]]] = []
        for total, shape, cancelled, pause in actions:
            search.gate.clear() if pause else search.gate.set()
            future = ask(batcher, total, shape)
            asked.append((total, shape, future))
            if cancelled:
                future.cancel()
            await asyncio.sleep(0)
        search.gate.set()
        await asyncio.gather(*(future for *_, future in asked), return_exceptions=True)
        for total, shape, future in asked:
            check_outcome(total, shape, future)

    run(story, max_rows=3)


def check_outcome(total: int, shape: Shape, future: "asyncio.Future[FoundRow]") -> None:
    if future.cancelled():
        return
    error = future.exception()
    if total == POISON:
        assert isinstance(error, ServiceError)
    else:
        assert error is None
        assert future.result().item.tolist() == list(range(total, total + shape.width))
