"""Changes of the catalog: a reader over a real socket, and a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service.api.control import Status
from service.api.engine_client import Router
from service.frames import CheckPatch, Failure, Prepare, Request
from service.store import Store

from .client import admin_of
from .little_engine import LittleEngine, engine, routes

pytestmark = pytest.mark.anyio

PATH = "/catalog/items"


@asynccontextmanager
async def editing(
    router: Router, store: Store, folder: Path, **values: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, LittleEngine]]:
    async with engine(folder) as reader, admin_of(router, store, **values) as client:
        await router.switch(routes(None, reader=reader))
        yield client, reader


async def test_a_patch_is_checked_by_the_reader_and_kept(router: Router, store: Store, folder: Path) -> None:
    items = [
        {"item_id": "a", "available": False},
        {"item_id": "new", "attributes": {"price": 2, "tags": ["é"], "sale": None}},
    ]
    async with editing(router, store, folder) as (client, reader):
        got = await client.patch(PATH, json={"items": items})
    assert got.status_code == 200
    assert got.json() == {"catalog_revision": 1, "changed": 2, "unknown": ["new"], "unplaced": {}}
    (asked,) = reader.asked
    assert isinstance(asked, CheckPatch)
    assert (asked.item_ids, asked.attributes) == (["a", "new"], [None, '{"price":2,"tags":["é"],"sale":null}'.encode()])
    records = store.catalog_records(["a", "new"])
    assert (records["a"].available, records["new"].available) == (False, True)
    assert records["new"].attributes == {"price": 2, "tags": ["é"], "sale": None}


async def test_what_changes_nothing_makes_no_revision(router: Router, store: Store, folder: Path) -> None:
    async with editing(router, store, folder) as (client, _):
        for changed in (1, 0):
            got = await client.patch(PATH, json={"items": [{"item_id": "a", "available": False}]})
            assert (got.json()["catalog_revision"], got.json()["changed"]) == (1, changed)


async def test_what_was_set_live_can_be_seen_and_forgotten(router: Router, store: Store, folder: Path) -> None:
    async with editing(router, store, folder) as (client, _):
        await client.patch(PATH, json={"items": [{"item_id": "a", "available": False, "attributes": {"price": 9}}]})
        await client.patch(PATH, json={"items": [{"item_id": "b", "attributes": {"price": 1}}]})
        first = await client.get("/catalog/changes", params={"limit": 1})
        rest = await client.get("/catalog/changes", params={"since": first.json()["next"]})
        got = await client.patch(PATH, json={"items": [{"item_id": "a", "reset": True, "attributes": {"new": True}}]})
    a = {"item_id": "a", "revision": 1, "available": False, "removed": False, "attributes": {"price": 9}, "item": None}
    b = {"item_id": "b", "revision": 2, "available": True, "removed": False, "attributes": {"price": 1}, "item": None}
    now = {"catalog_revision": 2, "catalog_era": store.catalog_changes(0).era}
    assert first.json() == now | {"items": [a], "next": 1}
    assert rest.json() == now | {"items": [b], "next": None}
    assert got.json()["changed"] == 1
    record = store.catalog_records(["a"])["a"]
    assert (record.available, record.attributes) == (True, {"new": True})


async def test_live_changes_are_shown_to_operators_alone(router: Router, store: Store, folder: Path) -> None:
    async with editing(router, store, folder) as (client, _):
        del client.headers["authorization"]
        assert (await client.get("/catalog/changes")).status_code == 401


async def test_without_a_reader_items_can_be_hidden_too(router: Router, store: Store) -> None:
    async with admin_of(router, store) as client:
        got = await client.patch(PATH, json={"items": [{"item_id": "a", "available": False}]})
    assert (got.status_code, got.json()["unknown"]) == (200, None)
    assert not store.catalog_records(["a"])["a"].available


async def test_attributes_are_not_set_unchecked_while_the_reader_of_what_serves_restarts(
    router: Router, store: Store, folder: Path
) -> None:
    async with engine(folder) as active, admin_of(router, store) as client:
        await router.switch(routes(active))
        hidden = await client.patch(PATH, json={"items": [{"item_id": "a", "available": False}]})
        changed = await client.patch(PATH, json={"items": [{"item_id": "a", "attributes": {"price": "much"}}]})
    assert (hidden.status_code, hidden.json()["unknown"]) == (200, None)
    assert (changed.status_code, changed.json()["code"]) == (503, "not_ready")
    assert store.catalog_revision() == 1


async def test_new_items_are_embedded_by_the_reader_and_kept(router: Router, store: Store, folder: Path) -> None:
    items = [{"item": {"item_id": "n/1", "title": "Mask"}}, {"item": {"item_id": "n2"}, "embedding": [1, 2.5]}]
    async with editing(router, store, folder) as (client, reader):
        got = await client.post(PATH, json={"items": items})
    assert got.json() == {"catalog_revision": 1, "changed": 2, "unknown": [], "unplaced": {}}
    (asked,) = reader.asked
    assert isinstance(asked, Prepare)
    assert [msgspec.json.decode(item) for item in asked.items] == [
        {"item_id": "n/1", "title": "Mask"},
        {"item_id": "n2"},
    ]
    assert asked.embeddings == [None, [1.0, 2.5]]
    record = store.catalog_records(["n/1"])["n/1"]
    assert (record.item, record.embeddings) == ({"item_id": "n/1", "title": "Mask"}, {"minilm-0": bytes(8)})


async def test_new_items_need_a_reader(router: Router, store: Store) -> None:
    async with admin_of(router, store) as client:
        got = await client.post(PATH, json={"items": [{"item": {"item_id": "n"}}]})
    assert (got.status_code, got.json()["code"]) == (503, "not_ready")
    assert store.catalog_revision() == 0


async def test_removed_items_are_gone(router: Router, store: Store, folder: Path) -> None:
    async with editing(router, store, folder) as (client, _):
        got = await client.request("DELETE", PATH, json={"item_ids": ["a", "other"]})
    assert got.json() == {"catalog_revision": 1, "changed": 2, "unknown": ["other"], "unplaced": {}}
    assert store.catalog_records(["a"])["a"].removed


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("PATCH", {"items": [{"item_id": "a", "attributes": {"price": "much"}}]}),
        ("POST", {"items": [{"item": {"item_id": "n"}}]}),
    ],
)
async def test_what_the_reader_refuses_is_told_with_its_pointers_and_changes_nothing(
    router: Router, store: Store, folder: Path, method: str, body: dict[str, Any]
) -> None:
    def refuse(message: Request) -> Failure:
        return Failure(message.query_id, "bad_item", "item 0 is wrong", [("/items/0/attributes/price", "is no number")])

    async with editing(router, store, folder) as (client, reader):
        reader.reading = refuse
        got = await client.request(method, PATH, json=body)
    assert (got.status_code, got.json()["code"]) == (422, "bad_item")
    assert got.json()["errors"] == [{"pointer": "/items/0/attributes/price", "detail": "is no number"}]
    assert store.catalog_revision() == 0


@pytest.mark.parametrize(("code", "status"), [("catalog_full", 409), ("no_text_encoder", 409)])
async def test_why_an_item_cannot_be_added_is_told(
    router: Router, store: Store, folder: Path, code: str, status: int
) -> None:
    async with editing(router, store, folder) as (client, reader):
        reader.reading = lambda message: Failure(message.query_id, code, "so it is")
        got = await client.post(PATH, json={"items": [{"item": {"item_id": "n"}}]})
    assert (got.status_code, got.json()["code"], got.json()["detail"]) == (status, code, "so it is")


PATCHED = {"item_id": "a", "available": True}
WRONG: list[tuple[str, Any, list[str]]] = [
    ("PATCH", {}, ["/items"]),
    ("PATCH", {"items": []}, ["/items"]),
    ("PATCH", {"items": [PATCHED] * 3 + [PATCHED | {"item_id": str(n)} for n in range(3)]}, ["/items"]),
    ("PATCH", {"items": [PATCHED, {"item_id": "b", "available": True}, PATCHED]}, ["/items/2/item_id"]),
    ("PATCH", {"items": [{"item_id": "a"}]}, ["/items/0"]),
    ("PATCH", {"items": [{"item_id": "", "available": 1}]}, ["/items/0/item_id", "/items/0/available"]),
    ("PATCH", {"items": [{"item_id": "a", "attributes": {"item_id": "b"}}]}, ["/items/0/attributes"]),
    ("PATCH", {"items": [{"item_id": "a", "attributes": {"n": 2**63}}]}, ["/items/0/attributes"]),
    ("PATCH", {"items": [{"item_id": "a", "attributes": []}]}, ["/items/0/attributes"]),
    ("PATCH", {"items": [PATCHED | {"colour": 1}]}, ["/items/0/colour"]),
    ("PATCH", {"items": [PATCHED], "wait_ms": 60_001}, ["/wait_ms"]),
    ("PATCH", {"items": [PATCHED], "wait_ms": 0}, ["/wait_ms"]),
    ("POST", {"items": [{"item_id": "n"}]}, ["/items/0/item", "/items/0/item_id"]),
    ("POST", {"items": [{"item": {"title": "no id"}}]}, ["/items/0/item/item_id"]),
    ("POST", {"items": [{"item": {"item_id": "n", "n": 2**64}}]}, ["/items/0/item"]),
    ("POST", {"items": [{"item": {"item_id": "n"}, "embedding": ["x"]}]}, ["/items/0/embedding/0"]),
    ("POST", {"items": [{"item": {"item_id": "n"}, "embedding": []}]}, ["/items/0/embedding"]),
    ("POST", {"items": [{"item": {"item_id": "n"}}, {"item": {"item_id": "n"}}]}, ["/items/1/item/item_id"]),
    ("DELETE", {"item_ids": ["a", 1]}, ["/item_ids/1"]),
    ("DELETE", {"item_ids": ["a", "a"]}, ["/item_ids/1"]),
    ("DELETE", {"item_ids": list("abcdef")}, ["/item_ids"]),
]


@pytest.mark.parametrize(("method", "body", "pointers"), WRONG)
async def test_one_wrong_row_changes_nothing(
    router: Router, store: Store, folder: Path, method: str, body: Any, pointers: list[str]
) -> None:
    async with editing(router, store, folder, max_catalog_items=5) as (client, reader):
        got = await client.request(method, PATH, json=body)
    assert (got.status_code, [error["pointer"] for error in got.json()["errors"]]) == (422, pointers)
    assert not reader.asked
    assert store.catalog_revision() == 0


@pytest.mark.parametrize("value", [b"1e999", b"-1e999", b"[" * 40 + b"]" * 40])
async def test_numbers_and_nesting_that_cannot_be_kept_are_refused(
    router: Router, store: Store, folder: Path, value: bytes
) -> None:
    body = b'{"items": [{"item_id": "a", "attributes": {"n": ' + value + b"}}]}"
    async with editing(router, store, folder) as (client, _):
        got = await client.patch(PATH, content=body)
    assert (got.status_code, got.json()["errors"][0]["pointer"]) == (422, "/items/0/attributes")


@pytest.mark.parametrize("method", ["PATCH", "POST", "DELETE"])
@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"", 400), (b" " * 3000, 400), (b" " * 3001, 413)])
async def test_bodies_are_read_as_everywhere(
    router: Router, store: Store, folder: Path, method: str, body: bytes, status: int
) -> None:
    async with editing(router, store, folder) as (client, _):
        assert (await client.request(method, PATH, content=body)).status_code == status


async def test_a_change_may_wait_until_this_replica_follows(router: Router, store: Store, folder: Path) -> None:
    async with editing(router, store, folder) as (client, _):
        body = {"items": [{"item": {"item_id": "n"}}, {"item": {"item_id": "m"}}], "wait_ms": 30_000}
        waiting = asyncio.create_task(client.post(PATH, json=body))
        while store.catalog_revision() < 1:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        router.status = Status(catalog_revision=7, catalog_era="of a Redis that was lost")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        unplaced = {"m": "no code is free", "x": "not asked for"}
        router.status = Status(catalog_revision=1, catalog_era=store.catalog_changes(0).era, unplaced=unplaced)
        got = await waiting
    assert (got.status_code, got.json()["unplaced"]) == (200, {"m": "no code is free"})


@pytest.mark.parametrize(
    "status",
    [
        Status(catalog_revision=7, catalog_era="of a Redis that was lost"),
        Status(catalog_unknown="what was hidden is damaged", catalog_lost=True),
    ],
    ids=["known", "unknown"],
)
async def test_a_change_that_would_end_those_that_redis_has_lost_is_refused(
    router: Router, store: Store, folder: Path, status: Status
) -> None:
    router.status = status
    async with editing(router, store, folder) as (client, _):
        got = await client.patch(PATH, json={"items": [PATCHED | {"available": False}]})
        assert (got.status_code, got.json()["code"], store.catalog_revision()) == (409, "catalog_lost", 0)
        store.restore_catalog([], 7)
        got = await client.patch(PATH, json={"items": [PATCHED | {"available": False}]})
    assert (got.status_code, got.json()["catalog_revision"]) == (200, 8)


async def test_ids_that_are_longer_than_a_new_item_s_can_be_hidden_and_removed(
    router: Router, store: Store, folder: Path
) -> None:
    long = "x" * 1000
    async with editing(router, store, folder) as (client, _):
        assert (await client.patch(PATH, json={"items": [{"item_id": long, "available": False}]})).status_code == 200
        assert (await client.request("DELETE", PATH, json={"item_ids": [long]})).status_code == 200
        assert (await client.post(PATH, json={"items": [{"item": {"item_id": long}}]})).status_code == 422
    assert store.catalog_records([long])[long].removed


async def test_a_draining_replica_does_not_wait(router: Router, store: Store, folder: Path) -> None:
    router.status = Status(draining=True)
    async with editing(router, store, folder) as (client, _):
        got = await client.patch(PATH, json={"items": [PATCHED | {"available": False}], "wait_ms": 60_000})
    assert (got.status_code, got.json()["code"], store.catalog_revision()) == (503, "draining", 1)


async def test_a_change_this_replica_does_not_follow_in_time_is_504_and_made(
    router: Router, store: Store, folder: Path
) -> None:
    router.status = Status(replica="r-1")
    async with editing(router, store, folder) as (client, _):
        got = await client.patch(PATH, json={"items": [PATCHED | {"available": False}], "wait_ms": 20})
    assert (got.status_code, got.json()["code"], got.json()["laggards"]) == (504, "not_followed", ["r-1"])
    assert "revision 1" in got.json()["detail"]
    assert store.catalog_revision() == 1
