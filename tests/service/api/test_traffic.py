"""Canary, shadow, replicas and what was changed, with a real Redis behind the worker."""

from typing import Any

import pytest

from service.api.engine_client import Router
from service.store import Canary, ReplicaReport, Store

from .client import admin_of

pytestmark = pytest.mark.anyio


async def test_traffic_of_an_empty_store_is_nothing(router: Router, store: Store) -> None:
    async with admin_of(router, store) as client:
        body = (await client.get("/traffic")).json()
    assert (body["model_version"], body["epoch"], body["canary"], body["shadow"]) == (None, 0, None, None)


async def test_traffic_is_replaced_as_a_whole(router: Router, published: Store) -> None:
    async with admin_of(router, published) as client:
        both = {"canary": {"version": "v2", "percent": 12.5}, "shadow": "v3"}
        first = (await client.put("/traffic", json=both)).json()
        assert {name: first[name] for name in both} == both
        assert (await client.get("/traffic")).json() == first
        second = (await client.put("/traffic", json={"shadow": "v3"})).json()
        assert (second["canary"], second["shadow"], second["reason"]) == (None, "v3", "traffic")
        last = (await client.put("/traffic", json={"canary": None, "shadow": None})).json()
    assert (last["canary"], last["shadow"], last["model_version"]) == (None, None, "v1")


@pytest.mark.parametrize(
    ("body", "status", "pointers"),
    [
        ({"canary": {"version": "v2", "percent": 0}}, 422, ["/canary/percent"]),
        ({"canary": {"version": "v2", "percent": 100.5}}, 422, ["/canary/percent"]),
        ({"canary": {"version": "v2"}}, 422, ["/canary/percent"]),
        ({"canary": "v2"}, 422, ["/canary"]),
        ({"shadow": 2}, 422, ["/shadow"]),
        ({"shadows": "v2"}, 422, ["/shadows"]),
        ({"canary": {"version": "v1", "percent": 5}}, 422, ["/canary/version"]),
        ({"shadow": "v1"}, 422, ["/shadow"]),
        ({"canary": {"version": "v2", "percent": 5}, "shadow": "v2"}, 422, ["/shadow"]),
        ({"canary": {"version": "v9", "percent": 5}}, 404, []),
        ({"shadow": "v9"}, 404, []),
    ],
)
async def test_traffic_that_cannot_be_changes_nothing(
    router: Router, published: Store, body: dict[str, Any], status: int, pointers: list[str]
) -> None:
    published.set_traffic(Canary("v2", 1.0), "v3")
    before = published.deployment()
    async with admin_of(router, published) as client:
        got = await client.put("/traffic", json=body)
    assert got.status_code == status
    assert [error["pointer"] for error in got.json().get("errors", [])] == pointers
    assert published.deployment() == before


async def test_replicas_are_told_as_they_told_themselves(router: Router, published: Store) -> None:
    published.report(ReplicaReport("r-1", "http://one", 3, "v1", ("v1", "v2"), 7, {"v1": "active"}, draining=True))
    async with admin_of(router, published) as client:
        body = (await client.get("/replicas")).json()
    (replica,) = body["replicas"]
    assert (body["active_version"], replica.pop("roles")) == ("v1", ["active"])
    assert replica.pop("at") > 0
    assert replica == {
        "replica": "r-1", "address": "http://one", "serving": "v1", "ready_for": ["v1", "v2"], "epoch": 3,
        "catalog_revision": 7, "states": {"v1": "active"}, "draining": True,
    }  # fmt: skip


async def test_replicas_show_who_answers_with_another_version_than_the_active_one(
    router: Router, published: Store
) -> None:
    published.activate("v2")
    for replica, serving in (("r-1", "v1"), ("r-2", "v2"), ("r-3", None)):
        published.report(ReplicaReport(replica, f"http://{replica}", 2, serving))
    async with admin_of(router, published) as client:
        body = (await client.get("/replicas")).json()
    assert body["active_version"] == "v2"
    assert [(row["serving"], row["roles"]) for row in body["replicas"]] == [
        ("v1", ["previous"]), ("v2", ["active"]), (None, []),
    ]  # fmt: skip


async def test_replicas_of_an_empty_store_are_to_answer_with_nothing(router: Router, store: Store) -> None:
    store.report(ReplicaReport("r-1", "http://one", 0))
    async with admin_of(router, store) as client:
        body = (await client.get("/replicas")).json()
    assert (body["active_version"], body["replicas"][0]["roles"]) == (None, [])


async def test_events_come_newest_first_and_no_more_than_wanted(router: Router, published: Store) -> None:
    published.activate("v2")
    published.set_traffic(Canary("v3", 5.0), None)
    async with admin_of(router, published) as client:
        all_of_them = (await client.get("/events")).json()["events"]
        newest = (await client.get("/events?limit=1")).json()["events"]
        wrong = await client.get("/events?limit=0")
    assert [event["reason"] for event in all_of_them] == ["traffic", "activate", "activate"]
    assert (all_of_them[1]["model_version"], all_of_them[1]["from_version"]) == ("v2", "v1")
    assert all_of_them[0]["canary"] == {"version": "v3", "percent": 5.0}
    assert newest == all_of_them[:1]
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/limit")
