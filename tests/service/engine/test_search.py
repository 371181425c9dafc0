import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifact import Artifact
from models.graph import SearchRow
from service.engine.catalog import Catalog, FoundRow
from service.engine.devices import CPU, SearchError, choose_provider
from service.engine.golden import GoldenError, check_golden
from service.engine.live import LiveSearch
from service.engine.search import Shape
from service.engine.startup import assemble, warm
from service.frames import Answer, Query
from tests.marks import without_gpu

from .conftest import ENGINE_SETTINGS

TOLERANCE = 1e-4


def ask(
    catalog: Catalog,
    search: LiveSearch,
    history: list[int],
    k: int,
    *,
    exclude: list[int] | None = None,
) -> Answer:
    names = [f"item-{number}" for number in history]
    excluded = [f"item-{number}" for number in exclude or []]
    ticket = catalog.ticket(Query(1, names, k, math.inf, excluded))
    found = search.run([ticket.prepared.row], ticket.prepared.shape)
    return catalog.answer(ticket, FoundRow.of(found, 0))


def test_it_says_which_device_it_uses(search: LiveSearch) -> None:
    assert search.provider == CPU


def test_a_batch_gives_each_row_what_it_gets_alone(search: LiveSearch) -> None:
    rng = np.random.default_rng(1)
    rows = [SearchRow(rng.integers(0, 60, size).astype(np.int32)) for size in (1, 3, 5, 6, 6)]
    shape = Shape(width=8, bucket=6)
    together = search.run(rows, shape)
    for place, row in enumerate(rows):
        single = search.run([row], shape)
        assert single.item[0].tolist() == together.item[place].tolist()
        np.testing.assert_allclose(single.score[0], together.score[place], atol=TOLERANCE)


def test_the_bucket_changes_nothing(search: LiveSearch) -> None:
    row = SearchRow(np.array([4, 5], dtype=np.int32))
    short, long = (search.run([row], Shape(4, bucket)) for bucket in (3, 6))
    assert short.item.tolist() == long.item.tolist()
    np.testing.assert_allclose(short.score, long.score, atol=TOLERANCE)


def test_without_rescoring_the_code_alone_orders(catalog: Catalog, search: LiveSearch) -> None:
    row = SearchRow(np.array([1, 2], dtype=np.int32))
    plain = search.run([row], Shape(8, 3, rescore=False))
    assert plain.score.tolist() == plain.code_score.tolist() == np.sort(plain.score)[:, ::-1].tolist()
    rescored = ask(catalog, search, [1, 2], 8)
    assert rescored.scores != rescored.code_scores
    assert rescored.scores == sorted(rescored.scores, reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    history=st.lists(st.integers(0, 59), min_size=1, max_size=12),
    exclude=st.sets(st.integers(0, 59), max_size=60),
    k=st.integers(1, 8),
)
def test_k_items_come_back_while_k_are_legal(
    catalog: Catalog, search: LiveSearch, history: list[int], exclude: set[int], k: int
) -> None:
    answer = ask(catalog, search, history, k, exclude=sorted(exclude))
    forbidden = {f"item-{number}" for number in {*history, *exclude}}
    legal = 60 - len(forbidden)
    assert len(answer.item_ids) == len(set(answer.item_ids)) == min(k, legal)
    assert forbidden.isdisjoint(answer.item_ids)
    assert answer.exhausted == (legal < k)


def test_nothing_comes_back_when_everything_is_excluded(catalog: Catalog, search: LiveSearch) -> None:
    answer = ask(catalog, search, [1], 4, exclude=list(range(60)))
    assert (answer.item_ids, answer.scores, answer.exhausted) == ([], [], True)


def test_a_catalog_smaller_than_the_beam_comes_back_whole(tiniest_artifact: Artifact) -> None:
    engine = assemble(tiniest_artifact, ENGINE_SETTINGS)
    answer = ask(engine.catalog, engine.search, [2], 8)
    assert sorted(answer.item_ids) == ["item-0", "item-1", "item-3", "item-4"]
    assert answer.exhausted


def test_every_shape_can_be_warmed(artifact: Artifact, search: LiveSearch) -> None:
    warm(artifact, search, max_rows=3)


def test_golden_requests_hold(artifact: Artifact, catalog: Catalog, search: LiveSearch) -> None:
    check_golden(artifact, catalog, search)


def test_another_artifact_s_network_fails_the_golden_requests(
    artifact: Artifact, catalog: Catalog, search: LiveSearch, another_artifact: Artifact
) -> None:
    with pytest.raises(GoldenError, match="golden request 0 of model tiny-1 has another answer here"):
        check_golden(replace(artifact, folder=another_artifact.folder), catalog, search)


@without_gpu
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(SearchError, match="no CUDA device"):
        choose_provider("cuda")
