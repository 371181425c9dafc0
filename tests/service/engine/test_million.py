"""A million items: what a filter leaves comes back, however little it is."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from deploy.synthetic import SHELF_ITEMS, write_synthetic
from models.artifact import Artifact
from service.catalog.records import ItemRecord
from service.engine.catalog import FoundRow
from service.engine.startup import Engine, assemble
from service.frames import Answer, Condition, Query
from service.settings import Settings

ITEMS, K = 1_000_000, 10


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_synthetic(tmp_path_factory.mktemp("million") / "m", ITEMS, width=8, beam_widths=(K,), history_length=5)


@pytest.fixture(scope="module")
def engine(million: Artifact) -> Engine:
    return assemble(million, Settings(provider="cpu", engine_threads=1, spare_items=100, filter_cache_bytes=50_000_000))


def at_once(action: Callable[[], None]) -> None:
    action()


def name(number: int) -> str:
    return f"{number:08}"


def ask(engine: Engine, slot: int, history: list[str], exclude: list[str] | None = None) -> Answer:
    ticket = engine.catalog.ticket(Query(1, history, K, math.inf, exclude or []), slot)
    if ticket.prepared.request.popular:
        return engine.catalog.popular(ticket)
    found = engine.search.run([ticket.prepared.row], ticket.prepared.shape)
    return engine.catalog.answer(ticket, FoundRow.of(found, 0))


@pytest.mark.parametrize("left", [1, 2, K - 1, K])
@pytest.mark.parametrize("history", [[name(77), name(500_000)], []])
def test_what_a_rare_filter_leaves_comes_back(engine: Engine, left: int, history: list[str]) -> None:
    wanted = [name(number) for number in np.random.default_rng(left).choice(ITEMS, left, replace=False).tolist()]
    engine.search.compile(1, [], wanted)
    answer = ask(engine, 1, history)
    assert sorted(answer.item_ids) == sorted(wanted)
    assert answer.exhausted == (left < K)


@pytest.mark.parametrize("left", [1, 2, K - 1, K])
def test_what_exclusions_leave_of_a_filter_comes_back(engine: Engine, left: int) -> None:
    engine.search.compile(2, [Condition("shelf", any_of=["shelf-3", "shelf-77777"])], None)
    matching = [name(shelf * SHELF_ITEMS + place) for shelf in (3, 77_777) for place in range(SHELF_ITEMS)]
    answer = ask(engine, 2, [matching[-1]], matching[left:])
    assert sorted(answer.item_ids) == matching[:left]


def test_items_that_come_and_go_are_followed(engine: Engine) -> None:
    engine.search.compile(3, [Condition("shelf", any_of=["shelf-9"])], None)
    shelf = [name(9 * SHELF_ITEMS + place) for place in range(SHELF_ITEMS)]
    engine.search.apply(1, [ItemRecord(item, 1, available=False) for item in shelf[1:]], {}, at_once)
    assert ask(engine, 3, [name(1)]).item_ids == shelf[:1]
    engine.search.apply(2, [ItemRecord(shelf[4], 2)], {}, at_once)
    assert sorted(ask(engine, 3, [name(1)]).item_ids) == [shelf[0], shelf[4]]


def test_a_common_filter_fills_every_place(engine: Engine) -> None:
    engine.search.compile(3, [Condition("genre", any_of=["genre-07"]), Condition("price", lte=500.0)], None)
    for history in ([name(5)], []):
        answer = ask(engine, 3, history)
        numbers = np.array([int(item) for item in answer.item_ids])
        assert len(set(answer.item_ids)) == K
        assert (numbers % 20 == 7).all()
        assert (numbers * 7919 % 1000 <= 500).all()
