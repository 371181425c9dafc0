import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.catalog.items import LiveItems
from service.catalog.records import ItemRecord
from service.frames import Condition
from tests.catalog_artifact import catalog_artifact

ROWS: list[dict[str, Any]] = [
    {"color": "red", "price": 3, "note": {"x": 1}},
    {"color": ["red", "blue"], "price": 5},
    {"title": "T"},
]
CODE = (15, 0)


@pytest.fixture
def items(tmp_path: Path) -> LiveItems:
    return LiveItems(catalog_artifact(tmp_path, ROWS), spare_items=2)


def apply(items: LiveItems, *records: ItemRecord, **codes: tuple[int, ...]) -> None:
    items.commit(items.stage(records, codes))


def added(item_id: str = "new", **more: Any) -> ItemRecord:
    given: dict[str, Any] = {"item": {"item_id": item_id, "color": "green"}, **more}
    return ItemRecord(item_id, 1, **given)


def attributes(items: LiveItems, index: int) -> Any:
    return json.loads(items.attributes_json(index))


def metadata(items: LiveItems, index: int) -> Any:
    return json.loads(items.metadata_json(index))


def matching(items: LiveItems, *conditions: Condition) -> list[int]:
    return np.flatnonzero(items.matcher(conditions)(None)).tolist()


def test_an_untouched_catalog_is_the_artifact_s(items: LiveItems) -> None:
    assert items.count == 3
    assert items.available.tolist() == [True, True, True, False, False]
    assert items.metadata_json(0) == items.artifact.metadata_json(0)
    assert attributes(items, 0) == {"color": "red", "price": 3}
    assert attributes(items, 1) == {"color": ["red", "blue"], "price": 5}
    assert items.indices(["item-2", "x"]).tolist() == [2, -1]
    assert items.code(2) == (0, 2)


def test_availability_comes_and_goes(items: LiveItems) -> None:
    apply(items, ItemRecord("item-1", 1, available=False))
    assert items.available.tolist() == [True, False, True, False, False]
    assert items.indices(["item-1"]).tolist() == [1]
    apply(items, ItemRecord("item-1", 2))
    assert items.available[1]


def test_a_patch_sets_adds_and_takes_away_and_a_later_record_without_it_restores(items: LiveItems) -> None:
    apply(items, ItemRecord("item-0", 1, attributes={"color": None, "price": 9, "season": "winter"}))
    assert metadata(items, 0) == {"item_id": "item-0", "price": 9, "note": {"x": 1}, "season": "winter"}
    assert attributes(items, 0) == {"price": 9, "season": "winter"}
    assert matching(items, Condition("color", any_of=["red"])) == [1]
    assert matching(items, Condition("season", any_of=["winter"])) == [0]
    apply(items, ItemRecord("item-0", 2))
    assert items.metadata_json(0) == items.artifact.metadata_json(0)
    assert matching(items, Condition("color", any_of=["red"])) == [0, 1]
    assert "season" not in items.fields


def test_a_value_of_another_kind_is_shown_and_not_filtered_by(items: LiveItems) -> None:
    apply(items, ItemRecord("item-0", 1, attributes={"price": "cheap", "note": "text"}))
    assert metadata(items, 0)["price"] == "cheap"
    assert attributes(items, 0) == {"color": "red"}
    assert items.fields == {"color": "keyword", "price": "number", "title": "keyword"}
    assert matching(items, Condition("price", none_of=[3.0])) == [0, 1, 2]


def test_a_list_of_strings_is_shown_as_one_however_few_they_are(items: LiveItems) -> None:
    apply(items, ItemRecord("item-0", 1, attributes={"color": ["green", ["green"]]}))
    assert attributes(items, 0)["color"] == ["green"]
    apply(items, ItemRecord("item-0", 2, attributes={"color": "green"}))
    assert attributes(items, 0)["color"] == "green"


def test_nothing_changes_an_id(items: LiveItems) -> None:
    apply(items, ItemRecord("item-0", 1, attributes={"item_id": "other"}))
    assert metadata(items, 0)["item_id"] == "item-0"


def test_an_item_is_added_with_its_code(items: LiveItems) -> None:
    staged = items.stage([added()], {"new": CODE})
    (new,) = staged.added
    assert (new.index, new.item_id, new.code, new.fresh) == (3, "new", CODE, True)
    assert staged.changed.tolist() == [3]
    assert (items.count, items.indices(["new"]).tolist()) == (3, [-1])  # nothing is visible yet
    items.commit(staged)
    assert (items.count, items.indices(["new"]).tolist(), items.item_id(3)) == (4, [3], "new")
    assert items.available.tolist() == [True, True, True, True, False]
    assert items.code(3) == CODE
    assert metadata(items, 3) == {"item_id": "new", "color": "green"}
    assert matching(items, Condition("color", any_of=["green"])) == [3]


def test_without_a_code_or_room_an_added_item_is_missing(items: LiveItems) -> None:
    records = [added("a"), added("b"), added("c"), added("d"), added("e")]
    staged = items.stage(records, {"a": (1,), "c": (15, 1), "d": (15, 2), "e": (15, 3)})
    assert staged.missing == ["a", "b", "e"]
    items.commit(staged)
    assert [items.item_id(index) for index in range(3, items.count)] == ["c", "d"]


def test_records_of_items_the_model_never_had_do_nothing(items: LiveItems) -> None:
    staged = items.stage([ItemRecord("x", 1, available=False), added("y", removed=True)], {})
    assert (staged.changed.size, staged.missing) == (0, [])


def test_adding_a_trained_item_is_a_change_of_it(items: LiveItems) -> None:
    staged = items.stage([ItemRecord("item-0", 1, item={"item_id": "item-0", "price": 8}, attributes={"price": 7})], {})
    assert (staged.added, staged.missing) == ((), [])
    items.commit(staged)
    assert (items.count, attributes(items, 0)) == (3, {"color": "red", "price": 7})


def test_a_removed_item_is_gone_until_it_is_added_again(items: LiveItems) -> None:
    apply(items, added(embeddings={"e": b"1"}), new=CODE)
    apply(items, ItemRecord("new", 2, removed=True), ItemRecord("item-0", 2, removed=True))
    assert items.available.tolist() == [False, True, True, False, False]
    assert items.indices(["new", "item-0"]).tolist() == [
        -1,
        0,
    ]  # a history may still hold what the model was trained on
    assert (items.is_removed(0), items.is_removed(3), items.is_removed(1)) == (True, True, False)
    assert metadata(items, 3) == {"item_id": "new"}
    staged = items.stage([added(embeddings={"e": b"1"}), ItemRecord("item-0", 3)], {"new": (1, 1)})
    assert [(new.index, new.code, new.fresh) for new in staged.added] == [(3, CODE, False)]
    items.commit(staged)
    assert items.count == 4
    assert items.available.tolist() == [True, True, True, True, False]
    assert items.indices(["new"]).tolist() == [3]


def test_an_empty_record_takes_an_added_item_away_and_makes_a_trained_one_as_trained(items: LiveItems) -> None:
    apply(items, added(), ItemRecord("item-0", 1, removed=True), new=CODE)
    apply(items, added("item-0"))
    apply(items, ItemRecord("new", 2), ItemRecord("item-0", 2))
    assert items.available.tolist() == [True, True, True, False, False]
    assert items.indices(["new", "item-0"]).tolist() == [-1, 0]
    assert items.metadata_json(0) == items.artifact.metadata_json(0)


def test_an_added_item_is_learned_anew_when_its_embedding_changes_and_only_then(items: LiveItems) -> None:
    apply(items, added(embeddings={"e": b"1"}), new=CODE)
    assert not items.stage([added(embeddings={"e": b"1"}, available=False)], {}).added
    assert [new.fresh for new in items.stage([added(embeddings={"e": b"2"})], {}).added] == [False]


def test_the_last_record_of_an_item_counts(items: LiveItems) -> None:
    apply(items, ItemRecord("item-0", 1, available=False), ItemRecord("item-0", 2, attributes={"price": 1}))
    assert (bool(items.available[0]), attributes(items, 0)["price"]) == (True, 1)


def test_live_attributes_have_the_kind_of_most_values(items: LiveItems) -> None:
    apply(items, *(ItemRecord(f"item-{n}", 1, attributes={"x": value}) for n, value in enumerate(["a", 1, 2])))
    assert items.fields["x"] == "number"
    assert (attributes(items, 0).get("x"), attributes(items, 1).get("x")) == (None, 1)


def test_a_stage_that_was_overtaken_cannot_be_committed(items: LiveItems) -> None:
    stale = items.stage([ItemRecord("item-0", 1)], {})
    apply(items, ItemRecord("item-1", 1))
    with pytest.raises(ValueError, match="another change"):
        items.commit(stale)


def test_texts_that_nothing_has_any_more_are_forgotten(items: LiveItems) -> None:
    for round_ in range(30):
        tags = [f"tag-{round_}-{n}" for n in range(100)]
        apply(items, ItemRecord("item-0", round_, attributes={"tags": tags}))
    apply(items, ItemRecord("item-1", 31, attributes={"tags": ["tag-29-7"]}))
    assert len(items.overlay.codes) < 1500
    assert matching(items, Condition("tags", any_of=["tag-29-7", "tag-3-3"])) == [0, 1]


def test_a_matcher_sees_later_changes(items: LiveItems) -> None:
    matcher = items.matcher([Condition("price", gte=4.0)], ["item-0", "item-1", "new"])
    apply(items, ItemRecord("item-0", 1, attributes={"price": 4}), added(attributes={"price": 10}), new=CODE)
    assert matcher(None).tolist() == [True, True, False, True]
    assert matcher(np.array([3, 2], dtype=np.int32)).tolist() == [True, False]


def test_reading_while_it_changes_shows_the_old_or_the_new(tmp_path: Path) -> None:
    items = LiveItems(catalog_artifact(tmp_path, ROWS), spare_items=150)
    stop, faults = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                assert matching(items, Condition("price", any_of=[3.0, 4.0]))[0] == 0
                assert metadata(items, 0)["price"] in (3, 4)
                for index in items.indices(["new-0", "new-140"]).tolist():
                    assert index < 0 or metadata(items, index)["item_id"] == items.item_id(index)
            except Exception as error:
                faults.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(150):
        apply(
            items, ItemRecord("item-0", n, attributes={"price": 3 + n % 2}), added(f"new-{n}"), **{f"new-{n}": (14, n)}
        )
    stop.set()
    reader.join()
    assert not faults
    assert items.count == 153
