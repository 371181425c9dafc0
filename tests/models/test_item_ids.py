import numpy as np
import pytest

from models.errors import ModelError
from models.item_ids import ItemIds


def test_ids_and_indices_are_inverse() -> None:
    names = [f"item {number} ü" for number in range(1000)]
    ids = ItemIds.build(names)
    assert ids.indices(names).tolist() == list(range(1000))
    assert [ids[number] for number in range(1000)] == names


def test_an_unknown_id_is_minus_one() -> None:
    ids = ItemIds.build(["a", "b"])
    assert ids.indices(["c", "b", "", "\ud800"]).tolist() == [-1, 1, -1, -1]


def test_ids_whose_hashes_collide_are_told_apart() -> None:
    ids = ItemIds.build(["a", "b", "c"])
    same = ItemIds(ids.text, ids.bounds, np.full(3, ids.sorted_hash[0]), ids.hash_item)
    wanted = ["a", "b", "c"][int(ids.hash_item[0])]
    assert same.indices([wanted]).tolist() == [int(ids.hash_item[0])]
    behind = ItemIds(ids.text, ids.bounds, np.full(3, ids.sorted_hash[0]), ids.hash_item[::-1])
    assert behind.indices([wanted, "d", wanted]).tolist() == [int(ids.hash_item[0]), -1, int(ids.hash_item[0])]


def test_an_id_given_twice_is_named() -> None:
    with pytest.raises(ModelError, match="'a' is given twice"):
        ItemIds.build(["a", "b", "a"])


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(ModelError, match="item 1 has an empty id"):
        ItemIds.build(["a", ""])
