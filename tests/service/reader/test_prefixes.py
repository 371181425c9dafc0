import json
from pathlib import Path
from typing import Any

import pytest

from service.catalog.items import LiveItems
from service.catalog.records import ItemRecord
from service.errors import UnknownPrefix
from service.reader.prefixes import children_document
from tests.catalog_artifact import catalog_artifact
from tests.tiny import random_codes


@pytest.fixture
def items(tmp_path: Path) -> LiveItems:
    """Items 0 … 33 have the codes (n // 16, n % 16)."""
    return LiveItems(catalog_artifact(tmp_path, [{"title": f"T{n}"} for n in range(34)]), spare_items=9)


def children(items: LiveItems, prefix: list[int], limit: int = 100) -> Any:
    return json.loads(children_document(items, prefix, limit))


def test_the_root_has_every_first_token(items: LiveItems) -> None:
    root = children(items, [])
    assert (root["prefix"], root["level"], root["item_count"], root["truncated"]) == ([], 0, 34, False)
    assert [(c["token"], c["prefix"], c["item_count"]) for c in root["children"]] == [
        (0, [0], 16), (1, [1], 16), (2, [2], 2)
    ]  # fmt: skip
    assert root["children"][1]["titles"] == ["T16", "T17", "T18"]


def test_a_whole_code_is_one_item_without_children(items: LiveItems) -> None:
    assert children(items, [2]) == {
        "prefix": [2], "level": 1, "item_count": 2, "truncated": False,
        "children": [
            {"token": 0, "prefix": [2, 0], "item_count": 1, "titles": ["T32"]},
            {"token": 1, "prefix": [2, 1], "item_count": 1, "titles": ["T33"]},
        ],
    }  # fmt: skip
    assert children(items, [2, 1]) == {
        "prefix": [2, 1],
        "level": 2,
        "item_count": 1,
        "children": [],
        "truncated": False,
    }


def test_no_more_children_than_asked_for(items: LiveItems) -> None:
    first = children(items, [0], limit=3)
    assert ([c["token"] for c in first["children"]], first["truncated"], first["item_count"]) == ([0, 1, 2], True, 16)


@pytest.mark.parametrize("prefix", [[3], [2, 2], [-1], [99], [0, 0, 0], [0, 99]])
def test_a_prefix_nothing_has_is_unknown(items: LiveItems, prefix: list[int]) -> None:
    with pytest.raises(UnknownPrefix, match=r"begins with " + ".".join(map(str, prefix))):
        children(items, prefix)


def test_added_items_are_in_it_and_removed_ones_are_not(items: LiveItems) -> None:
    added = {"new-1": (2, 5), "new-2": (15, 0), "new-3": (15, 1)}
    records = [ItemRecord(name, 1, item={"item_id": name, "name": f"New {name}"}) for name in added]
    removed = [ItemRecord(name, 2, removed=True) for name in ("item-33", "item-0", "new-3")]
    items.commit(items.stage(records, added))
    items.commit(items.stage(removed, {}))
    root = children(items, [])
    assert [(c["token"], c["item_count"]) for c in root["children"]] == [(0, 15), (1, 16), (2, 2), (15, 1)]
    assert root["item_count"] == 34
    assert root["children"][0]["titles"] == ["T1", "T2", "T3"]
    assert [(c["token"], c["titles"]) for c in children(items, [2])["children"]] == [(0, ["T32"]), (5, ["New new-1"])]
    assert children(items, [15, 0])["item_count"] == 1
    for gone in ([2, 1], [15, 1]):
        with pytest.raises(UnknownPrefix):
            children(items, gone)


def test_every_prefix_counts_the_items_below_it(tmp_path: Path) -> None:
    artifact = catalog_artifact(tmp_path, [{}] * 60, codes=random_codes(60, 3, 8, seed=0))
    items = LiveItems(artifact, spare_items=0)
    codes = [items.code(index) for index in range(items.count)]
    for prefix in {code[:level] for code in codes for level in range(4)}:
        below = [code for code in codes if code[: len(prefix)] == prefix]
        answer = children(items, list(prefix))
        assert answer["item_count"] == len(below)
        assert sum(child["item_count"] for child in answer["children"]) == (len(below) if len(prefix) < 3 else 0)
        tokens = {code[len(prefix)] for code in below} if len(prefix) < 3 else set()
        assert [child["token"] for child in answer["children"]] == sorted(tokens)
