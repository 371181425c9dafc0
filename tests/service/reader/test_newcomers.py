import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact import Artifact
from service.catalog.items import LiveItems
from service.catalog.records import ItemRecord
from service.errors import BadItem, CatalogFull, NoTextEncoder
from service.reader.newcomers import GIVEN, Newcomers, check_patches
from tests.catalog_artifact import catalog_artifact

ROWS: list[dict[str, Any]] = [{"color": "red", "price": 3, "new": True, "mixed": 1}, {"mixed": "x"}]
GOOD = [0.0, 1.0, 2.0]


@pytest.fixture
def items(tmp_path: Path) -> LiveItems:
    return LiveItems(catalog_artifact(tmp_path, ROWS, semantic_width=3), spare_items=2)


def raw(**item: Any) -> bytes:
    return json.dumps({"item_id": "n", **item}).encode()


def pointers(items: LiveItems, item: bytes, embedding: list[float] | None = GOOD) -> list[str]:
    with pytest.raises(BadItem) as bad:
        Newcomers(items).check([raw(), item], [GOOD, embedding])
    return [error["pointer"] for error in bad.value.errors]


@pytest.mark.parametrize(
    ("item", "pointer"),
    [
        (b"[]", "/items/1/item"),
        (b"{", "/items/1/item"),
        (b"\xff", "/items/1/item"),
        (b"{}", "/items/1/item/item_id"),
        (raw(item_id=""), "/items/1/item/item_id"),
        (raw(item_id=3), "/items/1/item/item_id"),
        (raw(item_id="ü" * 257), "/items/1/item/item_id"),
        (raw(item_id="\ud800"), "/items/1/item/item_id"),
        (raw(color=3), "/items/1/item/color"),
        (raw(color="x" * 129), "/items/1/item/color"),
        (raw(price="3"), "/items/1/item/price"),
        (raw(price={}), "/items/1/item/price"),
        (raw(new=1), "/items/1/item/new"),
    ],
)
def test_a_wrong_item_is_told_where_it_is_wrong(items: LiveItems, item: bytes, pointer: str) -> None:
    assert pointers(items, item) == [pointer]


@pytest.mark.parametrize("embedding", [[], [1.0], [1.0] * 4, [1.0, 2.0, float("nan")], [1.0, 2.0, 1e300]])
def test_a_wrong_embedding_is_told(items: LiveItems, embedding: list[float]) -> None:
    assert pointers(items, raw(), embedding) == ["/items/1/embedding"]


def test_everything_wrong_is_told_at_once(items: LiveItems) -> None:
    assert pointers(items, raw(item_id=0, color=1, new="x"), [1.0]) == [
        "/items/1/item/item_id", "/items/1/item/color", "/items/1/item/new", "/items/1/embedding"
    ]  # fmt: skip


def test_what_no_filter_reads_may_be_anything(items: LiveItems) -> None:
    fine = [raw(mixed={"a": 1}, color=None, other="x" * 200), raw(item_id="ü" * 256, mixed=2, price=2.5, color=["a"])]
    assert [item["item_id"] for item in Newcomers(items).check(fine, [GOOD, None])] == ["n", "ü" * 256]


def test_a_new_attribute_has_the_kind_of_its_first_value(items: LiveItems) -> None:
    with pytest.raises(BadItem, match=r"/items/1/item/season: 'season' is a keyword, not a number"):
        Newcomers(items).check([raw(season="winter"), raw(item_id="m", season=3)], [GOOD, GOOD])


def test_items_that_have_a_place_need_no_room(items: LiveItems) -> None:
    items.commit(items.stage([ItemRecord("a", 1, item={"item_id": "a"})], {"a": (15, 1)}))
    newcomers = Newcomers(items)
    newcomers.check([raw(item_id="a"), raw(item_id="item-0"), raw(item_id="b"), raw(item_id="b")], [GOOD] * 4)
    with pytest.raises(CatalogFull, match=r"2 items are new to the model v1, which has room for 1 more"):
        newcomers.check([raw(item_id="b"), raw(item_id="c")], [GOOD] * 2)


def test_given_embeddings_come_back_as_float32(items: LiveItems) -> None:
    (embedding,) = Newcomers(items).embed([{"item_id": "n"}], [[0.1, 2.0, -3.0]])
    assert np.frombuffer(embedding, dtype="<f4").tolist() == np.array([0.1, 2.0, -3.0], dtype=np.float32).tolist()
    assert Newcomers(items).encoder_name == GIVEN


def test_text_needs_a_model_with_a_text_encoder(items: LiveItems) -> None:
    with pytest.raises(NoTextEncoder, match=r"model v1 was exported without its text encoder"):
        Newcomers(items).embed([{"item_id": "n"}], [None])


def test_a_model_without_an_item_encoder_takes_none(tmp_path: Path) -> None:
    items = LiveItems(catalog_artifact(tmp_path, ROWS), spare_items=2)
    with pytest.raises(BadItem, match="without an item encoder"):
        Newcomers(items).check([raw()], [GOOD])


def test_text_is_encoded_where_no_embedding_is_given(text_artifact: Artifact) -> None:
    newcomers = Newcomers(LiveItems(text_artifact, spare_items=9))
    given = [float(n) for n in range(text_artifact.manifest.semantic_width)]
    items: list[dict[str, Any]] = [
        {"item_id": "a", "title": "red nail polish"}, {"item_id": "b"}, {"item_id": "c", "title": "green tent"}
    ]  # fmt: skip
    embedded = newcomers.embed(items, [None, given, None])
    red, middle, green = (np.frombuffer(embedding, dtype="<f4") for embedding in embedded)
    assert middle.tolist() == given
    alone = np.frombuffer(newcomers.embed(items[2:], [None])[0], dtype="<f4")
    np.testing.assert_allclose(green, alone, atol=1e-5)
    assert not np.allclose(red, green, atol=1e-3)
    assert newcomers.encoder_name == text_artifact.manifest.text_encoder


def test_patches_are_checked(items: LiveItems) -> None:
    ids = ["item-0", "nowhere", "item-1"]
    items.commit(items.stage([ItemRecord("item-1", 1, removed=True)], {}))
    assert check_patches(items, ids, [b'{"price": null, "season": "x", "mixed": []}', None, b"{}"]) == ids[1:]
    with pytest.raises(BadItem) as bad:
        check_patches(items, ids, [b'{"price": "x"}', b"3", b'{"item_id": "other", "a/b": 1, "new": 0}'])
    assert [error["pointer"] for error in bad.value.errors] == [
        "/items/0/attributes/price",
        "/items/1/attributes",
        "/items/2/attributes/item_id",
        "/items/2/attributes/new",
    ]
