"""What differs from the trained catalog: merged, all or nothing, and told from any revision on."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replace_fields

from service.catalog.records import ItemChange, ItemRecord
from service.embedded_redis import embedded_redis
from service.errors import BadItem, CatalogLost, StoreCorrupt, StoreUnavailable
from service.store import CatalogChanged, CatalogSighting, ReplicaReport, Store, catalog
from service.store.catalog import LARGEST_PART, CatalogRecords, merge
from tests.service.store_probes import losing_the_first_answer, stored_keys


def changed_ids(sighting: CatalogSighting) -> list[str]:
    return [record.item_id for record in sighting.records]


def off(*ids: str) -> list[ItemChange]:
    return [ItemChange(item_id, available=False) for item_id in ids]


def test_an_empty_catalog_has_revision_zero(store: Store) -> None:
    assert store.catalog_revision() == 0
    assert store.catalog_records(["a"]) == store.catalog_records([]) == {}
    assert store.catalog_changes(0) == CatalogSighting(0, [], whole=True)
    assert stored_keys(store) == set()


def test_a_change_is_one_revision_and_is_told(store: Store) -> None:
    made, told = store.change_items(off("a", "b")), store.catalog_changes(0)
    assert told.records == [ItemRecord("a", 1, available=False), ItemRecord("b", 1, available=False)]
    assert made == CatalogChanged(1, changed=2, era=told.era)
    assert told.era
    assert store.change_items(off("c")).revision == store.catalog_revision() == 2
    assert store.catalog_records(["a", "nope"]) == {"a": ItemRecord("a", 1, available=False)}
    since_one = store.catalog_changes(1)
    assert (since_one.revision, since_one.records, since_one.whole) == (2, [ItemRecord("c", 2, available=False)], False)
    assert store.catalog_changes(2).records == []
    everything = store.catalog_changes(0)
    assert (everything.revision, changed_ids(everything), everything.whole) == (2, ["a", "b", "c"], True)


def test_an_item_is_told_once_however_often_it_changed(store: Store) -> None:
    store.change_items(off("a", "b"))
    store.change_items(off("c"))
    store.change_items([ItemChange("a", attributes={"x": 1})])
    store.change_items([ItemChange("a", attributes={"x": 2})])
    assert store.catalog_changes(1).records == [
        ItemRecord("c", 2, available=False),
        ItemRecord("a", 4, available=False, attributes={"x": 2}),
    ]


def test_what_changes_nothing_makes_no_revision(store: Store) -> None:
    first = store.change_items([*off("a"), ItemChange("b", attributes={"x": None})])
    again = store.change_items([*off("a"), ItemChange("b", attributes={"x": None})])
    assert again == replace(first, changed=0)
    assert store.change_items([ItemChange("c", available=True)]) == again
    assert store.change_items([]) == again
    assert store.catalog_records(["c"]) == {}


def test_who_finds_nothing_to_change_is_told_a_revision_that_obeys_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else hid the item after the revision was read."""
    store.change_items(off("b"))
    state: Callable[[CatalogRecords], tuple[int, str]] = CatalogRecords.state

    def then_another_one_is_quicker(catalog: CatalogRecords) -> tuple[int, str]:
        found = state(catalog)
        monkeypatch.setattr(CatalogRecords, "state", state)
        store.change_items(off("a"))
        return found

    monkeypatch.setattr(CatalogRecords, "state", then_another_one_is_quicker)
    found = store.change_items(off("a"))
    assert (found.revision, found.changed, found.era) == (2, 0, store.catalog_changes(0).era)


def test_only_records_that_changed_get_the_new_revision(store: Store) -> None:
    store.change_items(off("a"))
    store.change_items(off("a", "b"))
    assert store.catalog_changes(0).records == [
        ItemRecord("a", 1, available=False),
        ItemRecord("b", 2, available=False),
    ]


def test_several_changes_of_one_item_count_in_their_order(store: Store) -> None:
    changes = [ItemChange("a", attributes={"x": 1, "y": 1}), ItemChange("a", available=False, attributes={"x": 2})]
    store.change_items(changes)
    assert store.catalog_records(["a"]) == {"a": ItemRecord("a", 1, available=False, attributes={"x": 2, "y": 1})}


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (None, {"available": False}, {"available": False}),
        ({"available": False}, {"attributes": {"x": 1}}, {"available": False, "attributes": {"x": 1}}),
        ({"attributes": {"x": 1, "y": 2}}, {"attributes": {"x": None}}, {"attributes": {"x": None, "y": 2}}),
        ({"attributes": {"y": {"z": 1, "u": 2}}}, {"attributes": {"y": {"z": 3}}}, {"attributes": {"y": {"z": 3}}}),
        ({"attributes": {"x": 1}}, {"attributes": {}}, {"attributes": {"x": 1}}),
        ({"item": {"t": 1}, "embeddings": {"e": b"1"}, "attributes": {"x": 1}}, {"remove": True}, {"removed": True}),
        ({"available": False}, {"remove": True}, {"removed": True}),
        ({"removed": True}, {"available": False, "attributes": {"x": 1}}, {"removed": True}),
        (
            {"removed": True, "available": False, "attributes": {"x": 1}, "item": {"t": 1}, "embeddings": {"e": b"1"}},
            {"item": {"t": 2}, "embeddings": {"f": b"2"}},
            {"item": {"t": 2}, "embeddings": {"f": b"2"}},
        ),
        ({"available": False, "attributes": {"x": 1}}, {"reset": True}, {}),
        ({"available": False, "attributes": {"x": 1}}, {"reset": True, "available": False}, {"available": False}),
        ({"available": False, "attributes": {"x": 1, "y": 1}}, {"reset": True, "attributes": {"x": 2}},
         {"attributes": {"x": 2}}),
        ({"removed": True, "attributes": {"x": 1}}, {"reset": True}, {"removed": True}),
        ({"item": {"t": 1}, "embeddings": {"e": b"1"}, "attributes": {"t": 2}}, {"reset": True},
         {"item": {"t": 1}, "embeddings": {"e": b"1"}}),
        ({"removed": True}, {"item": {"t": 1}, "available": False}, {"item": {"t": 1}, "available": False}),
        ({"item": {"t": 1}, "embeddings": {"e": b"1"}}, {"embeddings": {"f": b"2"}},
         {"item": {"t": 1}, "embeddings": {"e": b"1", "f": b"2"}}),
    ],
)  # fmt: skip
def test_changes_merge_into_records(
    before: dict[str, Any] | None, change: dict[str, Any], after: dict[str, Any]
) -> None:
    record = None if before is None else ItemRecord("a", 7, **before)
    assert merge(record, ItemChange("a", **change)) == ItemRecord("a", 7 if record else 0, **after)


def test_everything_a_record_can_hold_comes_back(store: Store) -> None:
    """Ids and values are bytes to Redis: spaces, zeros, points, digits in front."""
    ids = ["12 with a digit in front", "a\x00b", "ü 🌍", "1", "a:b,c"]
    item = {"item_id": "x", "nested": {"list": [1, 2.5, None, True, "ü"]}, "big": 2**63}
    for number, item_id in enumerate(ids, 1):
        store.change_items([ItemChange(item_id, item=item, embeddings={"minilm-1": bytes(range(256))})])
        assert store.catalog_records([item_id]) == {
            item_id: ItemRecord(item_id, number, item=item, embeddings={"minilm-1": bytes(range(256))})
        }
    assert changed_ids(store.catalog_changes(1)) == ids[1:]


@pytest.mark.parametrize("bad", [{"x": 2**70}, {"x": "\ud800"}, {"x": object()}])
def test_what_cannot_be_kept_changes_nothing(bad: dict[str, Any], store: Store) -> None:
    with pytest.raises(BadItem, match="'a'"):
        store.change_items([*off("b"), ItemChange("a", attributes=bad)])
    assert store.catalog_revision() == 0
    assert store.catalog_records(["b", "\ud800"]) == {}


def test_an_item_does_not_grow_without_bound(store: Store) -> None:
    """Each change is small enough; what all of them leave would fit into no message to an engine in the end."""
    store.change_items([ItemChange("a", attributes={"one": "x" * 600_000})])
    with pytest.raises(BadItem, match=r"item 'a' .* bytes in all, and 1048576 are the most"):
        store.change_items([*off("b"), ItemChange("a", attributes={"two": "x" * 600_000})])
    assert store.catalog_revision() == 1
    store.change_items([ItemChange("a", attributes={"one": "", "two": "x" * 600_000})])


def test_ten_thousand_items_change_in_one_step(store: Store) -> None:
    store.change_items(off("first"))
    names = [f"item-{number}" for number in range(10_000)]
    assert store.change_items(off(*names)).revision == 2
    part = store.catalog_changes(1)
    assert (part.revision, part.whole, set(changed_ids(part))) == (2, False, set(names))
    assert {record.revision for record in part.records} == {2}
    assert len(store.catalog_records(names)) == 10_000


def test_changes_are_read_in_pages_of_whole_revisions(store: Store) -> None:
    assert store.catalog_page(0, 10).records == []
    for ids in (["a"], ["b", "c", "d"], ["e"], ["a"]):
        store.change_items([ItemChange(one, attributes={"at": store.catalog_revision()}) for one in ids])
    pages, since = [], 0
    while True:
        page = store.catalog_page(since, 2)
        pages.append([record.item_id for record in page.records])
        if page.then is None:
            break
        since = page.then
    assert pages == [["b", "c", "d"], ["e", "a"], []]
    assert store.catalog_page(2, 10).records == [
        ItemRecord("e", 3, attributes={"at": 2}),
        ItemRecord("a", 4, attributes={"at": 3}),
    ]
    assert (store.catalog_page(4, 10).revision, store.catalog_page(4, 10).then) == (4, None)


def test_a_page_of_large_records_has_fewer_of_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_PAGE_BYTES", 2500)
    for ids in (["a", "b", "c"], ["d"], ["e"], ["f", "g"]):
        store.change_items([ItemChange(one, attributes={"text": "x" * 1000}) for one in ids])
    pages, since = [], 0
    while (page := store.catalog_page(since, 100)).then is not None:
        pages.append([record.item_id for record in page.records])
        since = page.then
    assert [*pages, [record.item_id for record in page.records]] == [["a", "b", "c"], ["d", "e"], ["f", "g"]]


def test_more_than_can_be_told_one_by_one_is_told_whole(store: Store) -> None:
    store.change_items(off("first"))
    names = [f"item-{number}" for number in range(LARGEST_PART + 1)]
    store.change_items(off(*names[: LARGEST_PART // 2]))
    store.change_items(off(*names[LARGEST_PART // 2 :]))
    whole = store.catalog_changes(1)
    assert (whole.revision, whole.whole, set(changed_ids(whole))) == (3, True, {"first", *names})
    part = store.catalog_changes(2)
    assert (part.whole, len(part.records)) == (False, len(names) - LARGEST_PART // 2)


def test_concurrent_changes_of_one_item_lose_nothing(store: Store) -> None:
    """Each thread sets attributes of its own on the same two items: a merge with an old record would drop others'."""
    start = threading.Barrier(6)

    def work(thread: int) -> set[int]:
        start.wait()
        return {
            store.change_items([ItemChange(name, attributes={f"{thread}-{n}": n}) for name in ("a", "b")]).revision
            for n in range(10)
        }

    with ThreadPoolExecutor(6) as pool:
        revisions = [revision for made in pool.map(work, range(6)) for revision in made]
    assert sorted(revisions) == list(range(1, 61))
    wanted = {f"{thread}-{n}": n for thread in range(6) for n in range(10)}
    assert store.catalog_records(["a", "b"]) == {name: ItemRecord(name, 60, attributes=wanted) for name in ("a", "b")}


def test_readers_never_see_half_of_a_change(store: Store) -> None:
    """Every change gives all items one number; whoever follows from revision to revision sees equal numbers."""
    names = [f"item-{number}" for number in range(50)]
    store.change_items([ItemChange(name, attributes={"n": 0}) for name in names])
    done = threading.Event()

    def write() -> None:
        for n in range(1, 60):
            store.change_items([ItemChange(name, attributes={"n": n}) for name in names])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        revision = 1
        while not done.is_set():
            sighting = store.catalog_changes(revision)
            assert len({record.attributes["n"] for record in sighting.records}) <= 1
            assert {record.revision for record in sighting.records} <= {sighting.revision}
            revision = sighting.revision
        writing.result()


def test_a_large_change_is_not_starved_by_small_ones_of_other_items(store: Store) -> None:
    done = threading.Event()

    def small() -> int:
        made = 0
        while not done.is_set():
            made = store.change_items([ItemChange("hot", attributes={"n": made})]).revision
        return made

    with ThreadPoolExecutor(2) as pool:
        hot = pool.submit(small)
        try:
            large = store.change_items(off(*(f"item-{number}" for number in range(5000))))
        finally:
            done.set()
        last = hot.result()
    assert {record.revision for record in store.catalog_records([f"item-{n}" for n in range(5000)]).values()} == {
        large.revision
    }
    assert store.catalog_revision() == max(last, large.revision)
    assert len(store.catalog_changes(large.revision - 1).records) in (5000, 5001)


def test_a_change_whose_answer_got_lost_is_not_made_twice(store: Store) -> None:
    store.change_items(off("first"))  # before which others are looked at
    with losing_the_first_answer(store, meanwhile=lambda: store.change_items(off("b"))) as unlucky:
        made = unlucky.change_items(off("a"))
    assert made == CatalogChanged(2, changed=1, era=store.catalog_changes(0).era)
    assert store.catalog_records(["a"]) == {"a": ItemRecord("a", 2, available=False)}
    assert store.catalog_revision() == 3


def test_a_catalog_that_was_lost_begins_again_and_is_told_whole(store: Store) -> None:
    for name in ("a", "b", "c"):
        store.change_items(off(name))
    known = store.catalog_changes(2)
    store.redis.client.delete(*stored_keys(store))
    assert store.catalog_changes(known.revision) == CatalogSighting(0, [], whole=True)
    store.change_items(off("d"))
    assert store.catalog_changes(known.revision).whole, "its revision went backwards"
    for name in ("e", "f", "g"):
        store.change_items(off(name))
    again = store.catalog_changes(known.revision, known.era)
    assert (again.whole, changed_ids(again)) == (True, ["d", "e", "f", "g"])
    assert again.era != known.era
    assert not store.catalog_changes(again.revision, again.era).whole


def test_a_catalog_that_a_replica_obeys_is_lost_where_redis_has_none(store: Store) -> None:
    one, another = (ReplicaReport(name, "http://here", 1, "v1") for name in ("one", "another"))
    store.report(one)
    store.report(replace_fields(another, catalog_revision=7))
    for changes in (off("a"), []):
        with pytest.raises(CatalogLost, match="has lost the changes"):
            store.change_items(changes)
    store.restore_catalog([], 1)
    assert store.change_items(off("a")).revision == 2


def test_the_first_change_is_made_where_no_replica_obeys_any(store: Store) -> None:
    store.report(ReplicaReport("one", "http://here", 1, "v1"))
    assert store.change_items(off("a")).revision == 1


def fill(store: Store) -> None:
    """20 MB in changes of 1 MB."""
    for batch in range(20):
        names = [f"{batch}-{number}" for number in range(500)]
        store.change_items([ItemChange(name, item={"text": "x" * 2000}) for name in names])


def test_a_full_redis_takes_all_of_a_change_or_nothing(tmp_path: Path) -> None:
    with embedded_redis(tmp_path / "own") as url, closing(Store.connect(url, "prorec")) as own:
        own.change_items(off("a"))
        used = own.redis.client.info("memory")["used_memory"]
        own.redis.client.config_set("maxmemory", used + 2_000_000)
        with pytest.raises(StoreUnavailable, match="is full"):
            fill(own)
        own.redis.client.config_set("maxmemory", 0)
        assert len(own.catalog_changes(0).records) % 500 == 1
        assert own.redis.client.hlen(own.keys.items) == own.redis.client.zcard(own.keys.changed)


@pytest.fixture
def damaged(store: Store) -> Store:
    store.change_items(off("a", "b"))
    store.redis.client.hset(store.keys.items, "a", b"1 no record")
    return store


def test_a_damaged_record_is_told(damaged: Store) -> None:
    for question in (lambda: damaged.catalog_records(["a"]), lambda: damaged.catalog_changes(0)):
        with pytest.raises(StoreCorrupt):
            question()
    assert damaged.change_items(off("c")).revision == 2
