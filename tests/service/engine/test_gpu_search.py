"""The search in bound buffers, in memory of this process, against the search on the CPU."""

import numpy as np
import pytest

from models.artifact import Artifact
from models.graph import Inputs, SearchRow, catalog_inputs, trie_inputs
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie
from service.engine.devices import CPU, SearchError, placement
from service.engine.gpu_search import GpuSearch
from service.engine.search import Found, GraphSearch, Shape, dead_class
from tests.marks import without_gpu
from tests.tiny import random_codes

WIDTH, BUCKET, SLOTS = 8, 6, 3


@pytest.fixture(scope="module", params=["temporal", "encoder_decoder"])
def model(request: pytest.FixtureRequest, by_generator: dict[str, Artifact]) -> Artifact:
    return by_generator[request.param]


@pytest.fixture(scope="module")
def bound(model: Artifact) -> GpuSearch:
    return GpuSearch(model, filtered(model.trie, model, 1), provider=CPU, max_rows=5)


def filtered(trie: CodeTrie, model: Artifact, seed: int) -> Inputs:
    """The catalog with SLOTS random filters, each of which leaves fewer items than the one before."""
    rng = np.random.default_rng(seed)
    legal = [rng.random(trie.item_count) < share for share in (1.0, 0.5, 0.1)]
    levels = zip(*(trie.count_leaves(mask) for mask in legal), strict=True)
    alive = {f"alive_{level}": np.stack(counts) for level, counts in enumerate(levels)}
    return catalog_inputs(model) | trie_inputs(trie) | alive


def random_catalog(items: int) -> tuple[CodeTrie, Inputs]:
    """Other items for the same network."""
    codes, rng = random_codes(items, 3, 8, seed=8), np.random.default_rng(8)
    tables = {f"item_{name}": rng.normal(size=(items, 16)).astype(np.float32) for name in ("input", "output")}
    trie = CodeTrie.build(codes)
    prefixes = PrefixOutput.of_first_items(trie, 16).inputs()
    return trie, trie_inputs(trie) | prefixes | tables | {"item_code": codes.tokens}


def random_rows(trie: CodeTrie, count: int, rng: np.random.Generator, most_dead: int = 20) -> list[SearchRow]:
    rows = []
    for _ in range(count):
        history = rng.choice(trie.item_count, rng.integers(1, 10), replace=False).astype(np.int32)
        excluded = rng.choice(trie.item_count, rng.integers(0, most_dead), replace=False)
        dead = trie.dead_states(trie.item_leaf[excluded]) if rng.random() < 0.8 else ()
        rows.append(SearchRow(history, dead, int(rng.integers(0, SLOTS))))
    return rows


def assert_alike(one: Found, other: Found) -> None:
    np.testing.assert_array_equal(one.item, other.item)
    there = one.item >= 0
    for name in ("score", "code_score", "prefix_score"):
        np.testing.assert_allclose(getattr(one, name)[there], getattr(other, name)[there], atol=1e-5)


@pytest.mark.parametrize("rescore", [True, False])
def test_bound_buffers_answer_as_the_search_on_the_cpu(model: Artifact, bound: GpuSearch, rescore: bool) -> None:
    """Batches of all sizes, one after the other through the same buffers, and larger than any that was planned for."""
    rng = np.random.default_rng(5)
    plain = GraphSearch(model, 1, filtered(model.trie, model, 1))
    for size in (5, 1, 3, 2, 4, 5, 7, 1):
        rows = random_rows(model.trie, size, rng)
        for shape in (Shape(WIDTH, BUCKET, rescore=rescore), Shape(4, 3, rescore=rescore)):
            assert_alike(bound.run(rows, shape), plain.run(rows, shape))


def test_long_dead_lists_are_searched_too(model: Artifact) -> None:
    trie, catalog = random_catalog(400)
    search, plain = GpuSearch(model, catalog, provider=CPU), GraphSearch(model, 1, catalog)
    excluded = np.setdiff1d(np.arange(400), np.arange(0, 400, 5)).astype(np.int32)
    row = SearchRow(excluded[:4], trie.dead_states(trie.item_leaf[excluded]))
    shape = Shape(WIDTH, BUCKET, dead_class(row))
    assert shape.dead == 512
    found = search.run([row, row], shape)
    assert_alike(found, plain.run([row, row], shape))
    assert not np.isin(found.item, excluded).any()


def test_a_catalog_that_fits_is_changed_in_place(model: Artifact) -> None:
    search = GpuSearch(model, filtered(model.trie, model, 1), provider=CPU, max_rows=2)
    rows = random_rows(model.trie, 2, np.random.default_rng(6))
    search.run(rows, Shape(WIDTH, BUCKET))
    residence = search.residence
    places = {name: value.data_ptr() for name, value in residence.catalog.values.items()}
    other = filtered(model.trie, model, 2)
    use = search.bind(other)
    before = GraphSearch(model, 1, filtered(model.trie, model, 1)).run(rows, Shape(WIDTH, BUCKET))
    assert_alike(search.run(rows, Shape(WIDTH, BUCKET)), before)
    use()
    assert_alike(search.run(rows, Shape(WIDTH, BUCKET)), GraphSearch(model, 1, other).run(rows, Shape(WIDTH, BUCKET)))
    assert search.residence is residence
    assert {name: value.data_ptr() for name, value in residence.catalog.values.items()} == places


def test_only_the_slots_that_changed_are_sent(model: Artifact) -> None:
    catalog = filtered(model.trie, model, 1)
    search = GpuSearch(model, catalog, provider=CPU, max_rows=2)
    other = filtered(model.trie, model, 2)
    counts = [other[f"alive_{level}"] for level in range(model.trie.code_length)]
    search.send_slots(counts, [1])
    mixed = {name: array.copy() for name, array in catalog.items() if name.startswith("alive")}
    for name, array in mixed.items():
        array[1] = other[name][1]
    rows = [SearchRow(np.array([3], dtype=np.int32), slot=slot) for slot in range(SLOTS)]
    expected = GraphSearch(model, 1, catalog | mixed).run(rows, Shape(WIDTH, BUCKET))
    assert_alike(search.run(rows, Shape(WIDTH, BUCKET)), expected)


def test_only_the_rows_that_changed_are_sent(model: Artifact) -> None:
    catalog = filtered(model.trie, model, 1)
    wanted: list[str] = ["item_input", "item_output", "item_code"]
    tables = {name: catalog[name].copy() for name in wanted if name in catalog}
    search = GpuSearch(model, catalog | tables, provider=CPU, max_rows=2)
    mixed = {name: table.copy() for name, table in tables.items()}
    sent = [0, 4, 5, 6, model.manifest.item_count - 1]
    for name, table in tables.items():
        table[:] = table[::-1].copy()
        mixed[name][sent] = table[sent]
    search.send_rows(tables, sent)
    rows = [SearchRow(np.array([item], dtype=np.int32)) for item in (4, 9)]
    expected = GraphSearch(model, 1, catalog | mixed).run(rows, Shape(WIDTH, BUCKET))
    assert_alike(search.run(rows, Shape(WIDTH, BUCKET)), expected)


def test_a_catalog_that_does_not_fit_gets_new_memory(model: Artifact) -> None:
    search = GpuSearch(model, filtered(model.trie, model, 1), provider=CPU, max_rows=2)
    residence = search.residence
    _, larger = random_catalog(500)
    use = search.bind(larger)
    assert search.residence is residence, "batches still run on what there was"
    use()
    rows = [SearchRow(np.array([499, 3], dtype=np.int32)), SearchRow(np.array([7], dtype=np.int32))]
    assert_alike(search.run(rows, Shape(WIDTH, BUCKET)), GraphSearch(model, 1, larger).run(rows, Shape(WIDTH, BUCKET)))


def test_it_can_be_told_where_every_node_runs(bound: GpuSearch) -> None:
    for session in bound.residence.sessions.values():
        placed = placement(session)
        assert placed.keys() == {CPU}
        assert placed[CPU]["TopK"] == 5


@without_gpu
def test_a_gpu_that_cannot_be_used_is_not_replaced_in_silence(artifact: Artifact) -> None:
    with pytest.raises(SearchError, match="cannot use CUDAExecutionProvider"):
        GpuSearch(artifact)
