"""The live catalog against plain sets and the numpy reference: filters, changes and new items, in any order."""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifact import Artifact
from models.codes import CodeTable
from models.graph import SearchRow, trie_inputs
from models.trie import CodeTrie
from service.catalog.filters import Matcher, filter_key
from service.catalog.items import LiveItems
from service.catalog.records import ItemRecord
from service.engine.catalog import Catalog, FoundRow
from service.engine.devices import CPU
from service.engine.gpu_search import GpuSearch
from service.engine.index import LiveIndex
from service.engine.live import LiveSearch
from service.engine.newcomers import Newcomers
from service.engine.search import CatalogSearch, GraphSearch
from service.errors import BadFilter
from service.frames import Answer, Condition, Query
from tests.tiny import tiny_package
from training.export import reference
from training.package import Package

from .newcomers import ENCODER, added, with_item_encoder

SPARE, TOKENS = 40, 8


def at_once(action: Callable[[], None]) -> None:
    action()


class World:
    """An engine, and beside it what the catalog is, as plain sets."""

    def __init__(self, artifact: Artifact, graph: CatalogSearch) -> None:
        self.items = LiveItems(artifact, SPARE)
        self.index = LiveIndex(artifact, spare_items=SPARE, cache_bytes=1_048_576)
        graph.bind(self.index.inputs(self.index.state))()
        newcomers = Newcomers(artifact, self.items, self.index.tables)
        self.search = LiveSearch(graph, self.items, self.index, newcomers)
        self.catalog = Catalog(artifact, self.items, self.index)
        self.available = {f"item-{number}" for number in range(artifact.manifest.item_count)}
        self.category = {item: "even" if int(item[5:]) % 2 == 0 else "odd" for item in self.available}
        self.slots: dict[bytes, int] = {}
        self.matchers: dict[int, Matcher] = {}
        self.revision = 0

    def apply(self, *records: ItemRecord, codes: dict[str, list[int]] | None = None) -> list[str]:
        self.revision += 1
        return self.search.apply(self.revision, records, codes or {}, at_once)

    def record(self, item: str, available: bool) -> ItemRecord:
        """All that is known of an item, as records hold it."""
        known = added(item) if item.startswith("new-") else ItemRecord(item, 1)
        return msgspec.structs.replace(known, available=available, attributes={"category": self.category[item]})

    def set_available(self, item: str, available: bool) -> None:
        self.apply(self.record(item, available))
        (self.available.add if available else self.available.discard)(item)

    def set_category(self, item: str, category: str) -> None:
        self.category[item] = category
        self.apply(self.record(item, item in self.available))

    def add(self, *items: str, category: str = "even") -> None:
        records = [added(item, category=category) for item in items]
        codes, refused = self.search.propose(records)
        assert not refused
        assert self.apply(*records, codes=codes) == []
        self.available.update(items)
        self.category |= dict.fromkeys(items, category)

    def slot(self, filters: Sequence[Condition] = (), include: Sequence[str] | None = None) -> int:
        """The slot of a filter; compiled on first use, and from then on only patched."""
        if not filters and include is None:
            return 0
        key = filter_key(filters, include, self.items.fields)
        if key not in self.slots:
            self.slots[key] = len(self.slots) + 1
            self.search.compile(self.slots[key], filters, include)
            self.matchers[self.slots[key]] = self.items.matcher(filters, include)
        return self.slots[key]

    def ask(self, history: Sequence[str], k: int = 4, **options: object) -> Answer:
        query = Query(1, list(history), k, math.inf, **options)  # type: ignore[arg-type]
        return ask(self, query, self.slot(query.filter, query.include_items))

    def legal(self, query_filter: Sequence[Condition], include: Sequence[str] | None) -> set[str]:
        wanted = {value for condition in query_filter for value in condition.any_of or ()}
        legal = {item for item in self.available if not wanted or self.category[item] in wanted}
        return legal if include is None else legal.intersection(include)


def ask(world: World, query: Query, slot: int) -> Answer:
    ticket = world.catalog.ticket(query, slot)
    if ticket.prepared.request.popular:
        return world.catalog.popular(ticket)
    found = world.search.run([ticket.prepared.row], ticket.prepared.shape)
    return world.catalog.answer(ticket, FoundRow.of(found, 0))


@pytest.fixture(scope="module", params=["temporal", "encoder_decoder"])
def package(request: pytest.FixtureRequest) -> Package:
    return tiny_package(generator=request.param)


@pytest.fixture(scope="module")
def open_artifact(
    package: Package, by_generator: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """One that items can be added to."""
    return with_item_encoder(by_generator[package.generator.config.generator], tmp_path_factory.mktemp("open"))


@pytest.fixture(scope="module", params=["arrays shared", "arrays copied"])
def graph(open_artifact: Artifact, request: pytest.FixtureRequest) -> CatalogSearch:
    """One that reads the catalog's own arrays, and one that has to be sent every change, as on a GPU."""
    shared: bool = request.param == "arrays shared"
    return GraphSearch(open_artifact, 1) if shared else GpuSearch(open_artifact, provider=CPU, max_rows=4)


@pytest.fixture
def world(open_artifact: Artifact, graph: CatalogSearch) -> World:
    return World(open_artifact, graph)


ITEMS = [*(f"item-{number}" for number in range(60)), *(f"new-{number}" for number in range(12))]
ITEM = st.sampled_from(ITEMS) | st.sampled_from(ITEMS[60:])
CHANGE = st.one_of(
    st.tuples(st.just("available"), ITEM, st.booleans()),
    st.tuples(st.just("category"), ITEM, st.sampled_from(["even", "odd", "rare"])),
    st.tuples(st.just("add"), ITEM, st.sampled_from(["even", "odd", "rare"])),
    st.tuples(
        st.just("ask"),
        st.tuples(
            st.lists(ITEM, max_size=9),
            st.sets(ITEM, max_size=40),
            st.sampled_from([None, "even", "odd", "rare"]),
            st.none() | st.sets(ITEM, max_size=10),
            st.integers(1, 8),
        ),
        st.none(),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(CHANGE, min_size=1, max_size=25))
def test_if_k_legal_items_exist_k_come_back_whatever_has_changed(
    open_artifact: Artifact, graph: CatalogSearch, story: list[tuple[str, object, object]]
) -> None:
    world = World(open_artifact, graph)
    for kind, what, value in story:
        if kind == "ask":
            check_answer(world, *what)  # type: ignore[misc]
        elif what in world.category and kind == "available":
            world.set_available(str(what), bool(value))
        elif what in world.category and kind == "category":
            world.set_category(str(what), str(value))
        elif what not in world.category:
            world.add(str(what), category=str(value))
        check_slots(world)


def check_answer(
    world: World, history: list[str], exclude: set[str], category: str | None, include: set[str] | None, k: int
) -> None:
    filters = [Condition("category", any_of=[category])] if category else []
    included = None if include is None else sorted(include)
    answer = world.ask(history, k, exclude=sorted(exclude), filter=filters, include_items=included)
    legal = world.legal(filters, included) - exclude - set(history)
    assert len(answer.item_ids) == len(set(answer.item_ids)) == min(k, len(legal))
    assert legal.issuperset(answer.item_ids)
    assert answer.exhausted == (len(legal) < k)
    assert answer.unknown == sum(item not in world.category for item in history)
    assert answer.catalog_revision == world.revision


def combined_trie(world: World) -> CodeTrie:
    """What a model trained with all these items would have."""
    return CodeTrie.build(CodeTable(world.index.tables.codes[: world.items.count].copy(), TOKENS))


def check_slots(world: World) -> None:
    """Every slot that holds a filter counts exactly what a new compilation would."""
    state, fresh = world.index.state, combined_trie(world)
    assert [array.tolist() for array in state.trie.child_start] == [array.tolist() for array in fresh.child_start]
    assert [array.tolist() for array in state.trie.child_token] == [array.tolist() for array in fresh.child_token]
    assert state.trie.leaf_item.tolist() == fresh.leaf_item.tolist()
    available = world.items.available[: world.items.count]
    for slot, legal in [(0, available), *((n, available & matches()) for n, matches in world.matchers.items())]:
        for counts, expected in zip(state.counts, fresh.count_leaves(legal[fresh.leaf_item]), strict=True):
            assert counts[slot].tolist() == expected.tolist()
        assert state.totals[slot] == legal.sum() == state.ranked[slot].sum()
        assert state.blocks[slot].tolist() == [
            block.sum() for block in np.split(state.ranked[slot], state.blocks.shape[1])
        ]


def test_after_items_were_added_a_search_is_that_of_the_combined_catalog(world: World, package: Package) -> None:
    world.add("new-0", "new-1", category="odd")
    world.set_available("item-7", available=False)
    world.add(*(f"new-{number}" for number in range(2, 30)))
    trie = combined_trie(world)
    legal = np.array([world.items.item_id(item) in world.available for item in range(world.items.count)])
    catalog = trie_inputs(trie) | {name: table.copy() for name, table in world.index.tables.inputs().items()}
    catalog |= {f"alive_{level}": counts[None] for level, counts in enumerate(trie.count_leaves(legal[trie.leaf_item]))}
    catalog |= world.index.state.prefixes.inputs()
    for history in (["item-1", "new-3"], ["new-29"], ["item-4", "item-5", "new-0", "item-6"]):
        answer = world.ask(history, 8, exclude_seen=False)
        slow = reference(package.generator, catalog, trie, SearchRow(world.items.indices(history)), 8, 0.5)
        assert answer.item_ids == [world.items.item_id(item) for item in slow.item.tolist()]
        np.testing.assert_allclose(answer.scores, slow.score, atol=1e-4)
        np.testing.assert_allclose(answer.code_scores, slow.code_score, atol=1e-4)


def test_added_items_come_back_and_count_in_histories(world: World) -> None:
    world.add("new-0")
    everything = world.ask(["item-1"], include_items=["new-0", "item-3"])
    assert set(everything.item_ids) == {"new-0", "item-3"}
    answer = world.ask(["new-0"])
    assert (answer.used, answer.unknown, answer.source) == (1, 0, "model")
    assert "new-0" not in answer.item_ids


def test_an_added_item_without_a_code_is_missing(world: World) -> None:
    taken = world.index.tables.codes[5].tolist()
    records = [added("new-0"), added("new-1"), added("new-2"), added("new-3")]
    codes = {"new-1": taken, "new-2": [0, 0, TOKENS], "new-3": [0]}
    assert world.apply(*records, codes=codes) == ["new-0", "new-1", "new-2", "new-3"]
    assert world.ask(["new-0"]).unknown == 1
    check_slots(world)


def test_two_items_with_one_code_in_one_change_are_not_both_added(world: World) -> None:
    codes, _ = world.search.propose([added("new-0")])
    assert world.apply(added("new-0"), added("new-1"), codes={**codes, "new-1": codes["new-0"]}) == ["new-1"]


def test_an_item_whose_embedding_does_not_fit_is_refused_and_not_added(world: World) -> None:
    good = added("new-0")
    bad = {
        "short": msgspec.structs.replace(good, item_id="short", embeddings={ENCODER: b"1234"}),
        "infinite": msgspec.structs.replace(good, item_id="infinite", embeddings={ENCODER: b"\0\0\x80\x7f" * 5}),
        "huge": msgspec.structs.replace(good, item_id="huge", embeddings={ENCODER: b"\xff\xff\x7f\x7f" * 5}),
        "other": msgspec.structs.replace(good, item_id="other", embeddings={"other": good.embeddings[ENCODER]}),
    }
    codes, refused = world.search.propose([good, *bad.values()])
    assert list(codes) == ["new-0"]
    assert refused.keys() == bad.keys()
    free = dict(zip(bad, [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]], strict=True))
    assert world.apply(*bad.values(), codes=free) == list(bad)


def test_codes_of_items_that_are_not_here_are_not_proposed(world: World) -> None:
    nearest, _ = world.search.propose([added("new-0")])
    next_nearest, _ = world.search.propose([added("new-0")], list(nearest.values()))
    assert next_nearest != nearest
    world.apply(added("new-1"), codes={"new-1": nearest["new-0"]})
    assert world.search.propose([added("new-0")])[0] == next_nearest


def test_proposed_codes_are_free_and_all_different(world: World) -> None:
    records = [added(f"new-{number}", seed=0) for number in range(30)]
    same = [msgspec.structs.replace(record, embeddings=records[0].embeddings) for record in records]
    codes, _ = world.search.propose(same)
    proposed = {tuple(code) for code in codes.values()}
    assert len(proposed) == 30
    assert proposed.isdisjoint(map(tuple, world.index.tables.codes[:60].tolist()))


def test_an_item_that_has_a_code_keeps_it(world: World) -> None:
    world.add("new-0")
    codes, _ = world.search.propose([added("new-0"), added("item-4")])
    assert codes["item-4"] == world.index.tables.codes[4].tolist()
    assert codes["new-0"] == world.index.tables.codes[60].tolist()


def test_where_there_is_no_room_an_item_is_refused(world: World) -> None:
    world.add(*(f"new-{number}" for number in range(SPARE)))
    codes, refused = world.search.propose([added("one-more")])
    assert (codes, list(refused)) == ({}, ["one-more"])
    assert "no room" in refused["one-more"]
    assert world.apply(added("one-more"), codes={"one-more": [0, 0, 0]}) == ["one-more"]


def test_where_codes_run_out_as_many_items_as_can_be_have_one(world: World) -> None:
    held = set(map(tuple, world.index.tables.codes[:60].tolist()))
    free = [list(code) for code in np.ndindex(TOKENS, TOKENS, TOKENS) if code not in held]
    codes, refused = world.search.propose([added(f"new-{number}") for number in range(5)], free[2:])
    assert sorted(codes.values()) == free[:2]
    assert codes.keys() | refused.keys() == {f"new-{number}" for number in range(5)}
    assert list(refused.values()) == ["all 8^3 codes belong to items already"] * 3


def test_a_removed_item_that_comes_back_has_its_code_and_its_new_embedding(world: World) -> None:
    codes, _ = world.search.propose([added("new-0")])
    world.apply(added("new-0"), codes=codes)
    before = world.index.tables.item_output[60].copy()
    (score,) = world.ask(["item-1"], include_items=["new-0"]).scores
    world.apply(added("new-0", removed=True))
    assert world.ask(["new-0"], include_items=["new-0"]).item_ids == []
    assert world.apply(added("new-0", seed=1), codes=codes) == []
    assert world.items.count == 61
    assert not np.allclose(world.index.tables.item_output[60], before)
    assert world.ask([], include_items=["new-0"]).item_ids == ["new-0"]
    assert world.ask(["item-1"], include_items=["new-0"]).scores != [pytest.approx(score)]
    check_slots(world)


def test_a_filter_that_was_compiled_before_sees_what_comes_later(world: World) -> None:
    assert world.ask(["item-1"], filter=[Condition("category", any_of=["odd"])], exclude=["item-3"]).item_ids
    included = ["item-4", "new-0"]
    assert world.ask(["item-1"], include_items=included).item_ids == ["item-4"]
    world.apply(ItemRecord("item-4", 1, attributes={"colour": "red"}))
    red = [Condition("colour", any_of=["red"])]
    assert world.ask(["item-1"], filter=red).item_ids == ["item-4"]
    world.apply(ItemRecord("item-5", 1, attributes={"colour": "red"}))
    world.add("new-0")
    assert set(world.ask(["item-1"], filter=red).item_ids) == {"item-4", "item-5"}
    assert set(world.ask(["item-1"], include_items=included).item_ids) == set(included)
    world.apply(ItemRecord("item-4", 1))
    assert world.ask(["item-1"], filter=red).item_ids == ["item-5"]


def test_an_answer_warns_of_what_no_item_had_at_its_revision(world: World) -> None:
    rare = [Condition("category", any_of=["odd", "rare"])]
    warning = "filter: no item has 'rare' in 'category'"
    assert [world.ask(history, filter=rare).warnings for history in (["item-1"], [])] == [[warning]] * 2
    meanwhile: list[Answer] = []

    def between(show: Callable[[], None]) -> None:
        meanwhile.append(world.ask(["item-1"], filter=rare))
        show()

    world.search.apply(1, [ItemRecord("item-4", 1, attributes={"category": "rare"})], {}, between)
    assert [(answer.warnings, answer.catalog_revision) for answer in meanwhile] == [([warning], 0)]
    assert [world.ask(history, filter=rare).warnings for history in (["item-1"], [])] == [[]] * 2
    world.apply(ItemRecord("item-4", 2))
    assert world.ask(["item-1"], filter=rare).warnings == [warning]


def test_a_slot_that_gets_another_filter_warns_of_that_one_alone(world: World) -> None:
    query = Query(1, ["item-1"], 4, math.inf)
    warnings = []
    for value in ("rare", "odd", "none"):
        world.search.compile(1, [Condition("category", any_of=[value])], None)
        warnings.append(ask(world, query, 1).warnings)
    assert warnings == [
        [f"filter: no item has '{value}' in 'category'"] * (value != "odd") for value in ("rare", "odd", "none")
    ]


def test_an_unknown_attribute_is_refused_naming_the_known_ones(world: World) -> None:
    with pytest.raises(BadFilter, match="category") as caught:
        world.search.compile(1, [Condition("size", any_of=["big"])], None)
    assert caught.value.errors[0]["pointer"].startswith("/filter")


def test_a_ticket_of_an_older_state_is_prepared_again(world: World) -> None:
    asked = Query(1, ["item-1", "new-0"], 8, math.inf, exclude=["new-1"])
    ticket = world.catalog.ticket(asked)
    assert world.catalog.refresh(ticket) is None
    world.add("new-0", "new-1")
    changed = world.catalog.refresh(ticket)
    assert changed is not None
    row, _ = changed
    assert row.history.tolist() == [1, 60]
    assert ticket.prepared.request.excluded.tolist() == [1, 60, 61]
    assert (ticket.prepared.legal, ticket.prepared.revision) == (59, 1)
    assert world.catalog.refresh(ticket) is None


def test_an_excluded_item_does_not_come_back_while_it_is_being_removed(world: World) -> None:
    world.add("new-0")
    only = ["new-0", "item-3"]
    world.slot([], only)
    asked: list[Answer] = []

    def between(show: Callable[[], None]) -> None:
        asked.append(world.ask(["item-1"], include_items=only, exclude=["new-0"]))
        asked.append(world.ask(["item-1", "new-0"], include_items=only))
        asked.append(world.ask([], include_items=only, exclude=["new-0"]))
        show()

    world.search.apply(2, [added("new-0", removed=True)], {}, between)
    assert [answer.item_ids for answer in asked] == [["item-3"]] * 3
    assert [answer.catalog_revision for answer in asked] == [1] * 3


def test_a_row_whose_whole_history_is_removed_while_it_waits_still_obeys_its_exclusions(world: World) -> None:
    world.add("new-0")
    excluded = [f"item-{number}" for number in range(57)]
    ticket = world.catalog.ticket(Query(1, ["new-0"], 4, math.inf, exclude=excluded))
    world.apply(added("new-0", removed=True))
    changed = world.catalog.refresh(ticket)
    assert changed is not None
    row, shape = changed
    answer = world.catalog.answer(ticket, FoundRow.of(world.search.run([row], shape), 0))
    assert set(answer.item_ids) == {"item-57", "item-58", "item-59"}
    assert (answer.exhausted, answer.unknown) == (True, 1)
    assert all(map(math.isfinite, answer.scores))


def test_popularity_obeys_filters_changes_and_exclusions_and_knows_added_items_last(world: World) -> None:
    world.add("new-0", "new-1")
    world.set_available("item-8", available=False)
    order = world.ask(
        [], 8, include_items=["new-1", "item-8", "item-2", "new-0", "item-9", "item-3"], exclude=["item-3"]
    )
    assert order.source == "popular"
    assert set(order.item_ids[:2]) == {"item-2", "item-9"}
    assert order.item_ids[2:] == ["new-0", "new-1"]
    assert order.scores == sorted(order.scores, reverse=True)
    assert order.exhausted
