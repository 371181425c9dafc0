import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from models.artifact import Artifact
from service.catalog.items import LiveItems
from service.catalog.records import ItemRecord
from service.reader.text_search import Found, TextSearch
from tests.catalog_artifact import catalog_artifact
from tests.service.plain_artifact import plain_artifact

ROWS: list[dict[str, Any]] = [
    {"title": "Red Tent", "brand": "North"},
    {"title": "Green tent", "note": 'a "red" flag \\ sign', "tags": ["Straße", "camping"]},
    {"title": "Rope", "note": "for a red tent", "details": {"Colour": ["RED", {"deep": "tent"}]}, "year": 1999},
    {"name": "Tentpole"},
]


@pytest.fixture
def items(tmp_path: Path) -> LiveItems:
    return LiveItems(catalog_artifact(tmp_path, ROWS), spare_items=3)


def found(items: LiveItems, text: str, limit: int = 10, offset: int = 0) -> Found:
    return TextSearch(items).find(text, limit, offset)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red tent", [0, 1, 2]),
        ("TENT", [0, 1, 3, 2]),  # titles and names first
        ("rope", [2]),
        ("strasse", [1]),
        ("STRASSE", [1]),
        ("1999", [2]),
        ('"red"', [1]),
        ("\\", [1]),
        ("title", []),
        ("colour", []),
        ("item-3", [3]),
        ("item-", [0, 1, 2, 3]),
        ("item_id", []),
        ('"', [1]),
        (":", []),
        ("}", []),
        ("red nowhere", []),
        ("\ud800", []),
    ],
)
def test_every_word_must_occur_in_the_id_or_a_value(items: LiveItems, text: str, expected: list[int]) -> None:
    assert found(items, text) == (expected, len(expected))


def test_no_words_find_everything(items: LiveItems) -> None:
    items.commit(items.stage([ItemRecord("item-1", 1, removed=True)], {}))
    assert found(items, "  ", limit=2) == ([0, 2], 3)
    assert found(items, "", limit=2, offset=2) == ([3], 3)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 19)), st.integers(0, 21), st.integers(1, 21))
def test_pages_of_everything_leave_removed_items_out(removed: set[int], offset: int, limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        items = LiveItems(catalog_artifact(Path(folder), [{"title": "x"}] * 20), spare_items=0)
        items.commit(items.stage([ItemRecord(f"item-{item}", 1, removed=True) for item in removed], {}))
        left = [item for item in range(20) if item not in removed]
        assert found(items, "", limit, offset) == (left[offset : offset + limit], len(left))


def test_pages_follow_each_other(items: LiveItems) -> None:
    pages = [found(items, "tent", limit=3, offset=offset) for offset in (0, 3, 6)]
    assert pages == [([0, 1, 3], 4), ([2], 4), ([], 4)]


def test_the_item_with_the_id_comes_first(tmp_path: Path) -> None:
    rows = [{"item_id": "ab", "title": "x"}, {"item_id": "c", "title": "AB"}, {"item_id": "AB", "title": "y"}]
    items = LiveItems(catalog_artifact(tmp_path, rows), spare_items=0)
    assert found(items, "AB").items == [2, 1, 0]
    assert found(items, "ab").items == [0, 1, 2]


def test_changes_are_found_and_what_they_replaced_is_not(items: LiveItems) -> None:
    records = [
        ItemRecord("item-0", 1, attributes={"title": "Blue Kayak"}),
        ItemRecord("item-2", 1, removed=True),
        ItemRecord("item-3", 1, available=False),
        ItemRecord("new-1", 1, item={"item_id": "new-1", "title": "Tent ÄRMEL"}),
    ]
    items.commit(items.stage(records, {"new-1": (15, 1)}))
    assert found(items, "tent").items == [1, 3, 4]
    assert found(items, "kayak").items == [0]
    assert found(items, "ärmel").items == [4]
    assert found(items, "new").items == [4]
    assert found(items, "item-2").items == []


def test_an_item_that_changes_again_is_found_by_what_it_is_now(items: LiveItems) -> None:
    search = TextSearch(items)
    for number, title in enumerate(["Blue Kayak", "Yellow Kayak", "Oar"], start=1):
        items.commit(items.stage([ItemRecord("item-0", number, attributes={"title": title})], {}))
        found_by = {word: search.find(word, 10).items for word in ("blue", "yellow", "kayak", "oar")}
        assert found_by == {word: [0] if word in title.casefold() else [] for word in found_by}
    items.commit(items.stage([ItemRecord("new-1", 4, item={"item_id": "new-1", "title": "Oar"})], {"new-1": (15, 1)}))
    assert search.find("oar", 10).items == [0, 4]


def test_changed_items_are_folded_once(items: LiveItems, monkeypatch: pytest.MonkeyPatch) -> None:
    items.commit(items.stage([ItemRecord(f"item-{n}", 1, attributes={"title": "Kayak"}) for n in range(4)], {}))
    search = TextSearch(items)
    assert search.find("kayak", 10).items == [0, 1, 2, 3]
    monkeypatch.setattr("service.reader.text_search._folded", None)
    assert search.find("kayak", 10).items == [0, 1, 2, 3]


def test_ids_are_found_where_metadata_does_not_hold_them(tmp_path: Path) -> None:
    items = LiveItems(plain_artifact(tmp_path), spare_items=0)
    assert found(items, "ITEM-3") == ([3], 1)
    assert found(items, "item 5") == ([5], 1)


def test_the_clock_is_looked_at_however_little_is_known_of_the_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = LiveItems(plain_artifact(tmp_path), spare_items=0)
    monkeypatch.setattr("service.reader.text_search._CHUNK_ITEMS", 1)
    search = TextSearch(items, budget_s=4.0)
    seconds = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    assert search.find("nothing", 10).total is None


def test_without_time_it_stops_and_says_so(items: LiveItems) -> None:
    assert TextSearch(items, budget_s=-1.0).find("tent", 10).total is None


WORDS = st.sampled_from(["red", "Red", "ß", "SS", "ärmel", "ÄRMEL", "İ", "x", '"', "\\", "a\\b", "k1", "ſ", "名", "7"])
TEXTS = st.lists(WORDS, max_size=4).map(" ".join)
VALUES: st.SearchStrategy[Any] = TEXTS | st.lists(TEXTS, max_size=2) | st.dictionaries(WORDS, TEXTS, max_size=2)
CATALOGS = st.lists(
    st.fixed_dictionaries({}, optional={"title": TEXTS, "name": TEXTS, "k1": VALUES, "red": TEXTS}),
    min_size=1,
    max_size=9,
)


def texts_of(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for child in value.values() for text in texts_of(child)]
    if isinstance(value, list):
        return [text for child in value for text in texts_of(child)]
    return [str(value)]


def plainly(metadata: list[dict[str, Any]], query: str) -> list[int]:
    words = query.casefold().split()

    def holds(texts: list[str]) -> bool:
        return all(any(word in text.casefold() for text in texts) for word in words)

    def in_title(row: dict[str, Any]) -> bool:
        return holds([row.get("title", row.get("name", ""))])

    matching = [item for item, row in enumerate(metadata) if holds(texts_of(row))]
    return sorted(matching, key=lambda item: (not in_title(metadata[item]), item))


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(CATALOGS, st.lists(WORDS, min_size=1, max_size=2).map(" ".join), st.integers(20, 300))
def test_it_finds_what_a_plain_reading_finds(rows: list[dict[str, Any]], query: str, chunk_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artifact = catalog_artifact(Path(folder), rows)
        search = TextSearch(LiveItems(Artifact.open(artifact.folder), 0), chunk_bytes=chunk_bytes)
        first, again = search.find(query, 10), search.find(query, 10)
        metadata = [json.loads(artifact.metadata_json(item)) for item in range(len(rows))]
    assert first == again
    assert first.items == plainly(metadata, query)
