"""Models over HTTP, with a real Redis behind the worker."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from models.artifact import Artifact
from service.api.control import ModelState, Route, Routes, Status, Transition
from service.api.engine_client import Router
from service.store import Canary, ReplicaReport, Store
from tests.service.plain_artifact import edit_manifest, plain_artifact

from .client import admin_of, client_of
from .little_engine import info

pytestmark = pytest.mark.anyio


def report(store: Store, serving: str, replica: str = "r-1", **fields: Any) -> None:
    deployment = store.deployment()
    epoch = deployment.epoch if deployment else 0
    store.report(ReplicaReport(replica, f"http://{replica}", fields.pop("epoch", epoch), serving, **fields))


def active(store: Store) -> str | None:
    deployment = store.deployment()
    return deployment.version if deployment else None


async def test_models_join_what_redis_holds_with_what_this_replica_does(router: Router, published: Store) -> None:
    router.status = Status(redis="ok", models=(ModelState("v1", "active", 0.0), ModelState("gone", "draining", 0.0)))
    async with admin_of(router, published) as client:
        body = (await client.get("/models")).json()
    assert (body["active_version"], body["epoch"], body["previous"]) == ("v1", 1, [])
    assert {row["model_version"]: row["state"] for row in body["models"]} == {
        "v1": "active", "v2": "published", "v3": "published", "gone": "draining",
    }  # fmt: skip
    assert body["models"][2]["metrics"] == {"model": {"recall@10": 0.5}}


async def test_a_model_says_whose_figures_it_shows(router: Router, published: Store, tmp_path: Path) -> None:
    refit = edit_manifest(plain_artifact(tmp_path, "v4"), refitted_from="v1", metrics_of="validation set")
    published.publish(Artifact.open(refit.folder))
    async with admin_of(router, published) as client:
        plain, refitted = [(await client.get(f"/models/{version}")).json() for version in ("v1", "v4")]
    assert (plain["refitted_from"], plain["metrics_of"]) == (None, None)
    assert (refitted["refitted_from"], refitted["metrics_of"]) == ("v1", "validation set")


async def test_a_model_has_its_roles_its_way_here_and_what_other_replicas_say(router: Router, published: Store) -> None:
    published.activate("v2")
    published.pin("v1")
    steps = (Transition("loading", 1.0), Transition("failed", 2.0, "no memory"))
    router.status = Status(redis="ok", models=(ModelState("v1", "failed", 2.0, "no memory", 9.0, steps),))
    report(published, "v1", "r-1", ready_for=("v1",), states={"v1": "active"})
    report(published, "v2", "r-2", ready_for=("v2",), states={"v2": "active"})
    async with admin_of(router, published) as client:
        body = (await client.get("/models/v1")).json()
    assert (body["model_version"], body["item_count"], body["roles"]) == ("v1", 8, ["previous", "pinned"])
    assert (body["state"], body["reason"], body["since"], body["retry_at"]) == ("failed", "no memory", 2.0, 9.0)
    assert body["transitions"] == [
        {"state": "loading", "at": 1.0, "reason": None},
        {"state": "failed", "at": 2.0, "reason": "no memory"},
    ]
    assert body["replicas"] == [
        {"replica": "r-1", "address": "http://r-1", "state": "active", "serving": True, "ready": True},
        {"replica": "r-2", "address": "http://r-2", "state": None, "serving": False, "ready": False},
    ]


async def test_a_model_tells_how_many_filters_its_engine_can_keep_compiled(router: Router, published: Store) -> None:
    router.routes = Routes(1, Route("/v1", msgspec.structs.replace(info("v1"), filter_slots=2)))
    async with admin_of(router, published) as client:
        assert (await client.get("/models/v1")).json()["engine"]["filter_slots"] == 2
        assert (await client.get("/health/ready")).json()["engine"]["filter_slots"] == 2


async def test_a_model_tells_in_which_precision_its_engine_computes(router: Router, published: Store) -> None:
    serves, waits, shadow = (
        Route(f"/{version}", msgspec.structs.replace(info(version), precision=precision, golden_overlap=overlap))
        for version, precision, overlap in (("v1", "fp32", 1.0), ("v2", "int8", 0.98125), ("v3", "int8", 0.91))
    )
    router.routes = Routes(1, serves, others=(waits,), shadow=shadow)
    async with admin_of(router, published) as client:
        engines = [(await client.get(f"/models/{version}")).json()["engine"] for version in ("v1", "v2", "v3")]
        router.routes = Routes(2, serves)
        unloaded = (await client.get("/models/v2")).json()["engine"]
        lines = (await client.get("/metrics")).text.splitlines()
    assert [(e["precision"], e["golden_overlap"]) for e in engines] == [("fp32", 1), ("int8", 0.9812), ("int8", 0.91)]
    assert unloaded is None
    assert [line for line in lines if line.startswith("prorec_golden_overlap_ratio")] == [
        'prorec_golden_overlap_ratio{model_version="v1",precision="fp32"} 1.0'
    ]


async def test_a_deleted_model_is_gone_though_it_was_loaded_here_once(router: Router, published: Store) -> None:
    router.status = Status(redis="ok", models=(ModelState("v2", "unloaded", 0.0),))
    async with admin_of(router, published) as client:
        assert (await client.get("/models/v2")).json()["state"] == "unloaded"
        assert (await client.delete("/models/v2")).status_code == 204
        assert (await client.get("/models/v2")).status_code == 404
        assert len((await client.get("/models")).json()["models"]) == 2


async def test_canary_and_shadow_are_roles_too(router: Router, published: Store) -> None:
    published.set_traffic(Canary("v2", 5.0), "v3")
    async with admin_of(router, published) as client:
        roles = [(await client.get(f"/models/{version}")).json()["roles"] for version in ("v1", "v2", "v3")]
    assert roles == [["active"], ["canary"], ["shadow"]]


async def test_a_redis_that_hangs_holds_only_those_up_who_ask_it(router: Router) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        async with client_of(router, redis_url=url, admin_token="secret") as client:
            client.headers["Authorization"] = "Bearer secret"
            waiting = [asyncio.create_task(client.get("/models")) for _ in range(40)]
            await asyncio.sleep(0.1)
            assert (await client.get("/metrics")).status_code == 200
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_model_loaded_here_is_described_without_redis(router: Router) -> None:
    router.status = Status(redis="unreachable", models=(ModelState("v1", "active", 3.0),))
    async with client_of(router, admin_token="secret") as client:
        client.headers["Authorization"] = "Bearer secret"
        known, unknown = await client.get("/models/v1"), await client.get("/models/v2")
    assert (known.json()["state"], known.json()["replicas"]) == ("active", None)
    assert (unknown.status_code, unknown.json()["code"]) == (503, "store_unavailable")


@pytest.mark.parametrize("version", ["v9", "rollback", "a b"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("POST", "/load"), ("POST", "/unload"), ("POST", "/activate")],
)
async def test_a_version_that_is_not_published_is_404(
    router: Router, published: Store, version: str, method: str, path: str
) -> None:
    async with admin_of(router, published) as client:
        got = await client.request(method, f"/models/{version}{path}")
    assert (got.status_code, got.json()["code"]) == (404, "unknown_version")


async def test_a_load_pins_and_an_unload_takes_that_back(router: Router, published: Store) -> None:
    asked: list[str] = []
    router.request_retry = lambda: asked.append("again")
    async with admin_of(router, published) as client:
        loaded = await client.post("/models/v2/load")
        assert (loaded.status_code, loaded.headers["Location"]) == (202, "/models/v2")
        assert (loaded.json()["model_version"], loaded.json()["pinned"], asked) == ("v1", ["v2"], ["again"])
        unloaded = await client.post("/models/v2/unload")
    assert (unloaded.status_code, unloaded.json()["pinned"]) == (200, [])


async def begun(client: httpx.AsyncClient, published: Store, wait_s: float) -> asyncio.Task[httpx.Response]:
    """An activation of v2 that is made, and waits for replicas."""
    waiting = asyncio.create_task(client.post("/models/v2/activate", json={"wait_s": wait_s}))
    while active(published) != "v2":
        await asyncio.sleep(0.01)
    return waiting


async def test_an_activation_changes_redis_and_asks_for_another_attempt(router: Router, published: Store) -> None:
    asked: list[str] = []
    router.request_retry = lambda: asked.append("again")
    async with admin_of(router, published) as client:
        for _ in range(2):  # the second changes nothing in Redis, and so nothing there would tell the supervisor
            body = (await client.post("/models/v2/activate", json={"if_active": None})).json()
            assert (body["model_version"], body["epoch"], body["previous"]) == ("v2", 2, ["v1"])
            assert body["followed_by"] is None
    assert asked == ["again", "again"]


async def test_an_activation_may_wait_until_every_replica_serves(router: Router, published: Store) -> None:
    report(published, "v1", "r-1")
    async with admin_of(router, published) as client:
        waiting = await begun(client, published, wait_s=60)
        assert not waiting.done()
        report(published, "v2", "r-1")
        got = await waiting
    assert (got.status_code, got.json()["followed_by"]) == (200, ["r-1"])


async def test_a_replica_may_take_longer_than_one_look(router: Router, published: Store) -> None:
    report(published, "v1", "r-1")
    async with admin_of(router, published) as client:
        waiting = asyncio.create_task(client.post("/models/v2/activate", json={"wait_s": 60}))
        for _ in range(6):  # longer than a thread waits at a time
            await asyncio.sleep(0.5)
            report(published, "v1", "r-1")
        assert not waiting.done()
        report(published, "v2", "r-1")
        assert (await waiting).status_code == 200


async def test_waiting_ends_when_another_version_becomes_the_active_one(router: Router, published: Store) -> None:
    report(published, "v1", "r-1")
    async with admin_of(router, published) as client:
        waiting = await begun(client, published, wait_s=600)
        published.activate("v3")
        got = await waiting
    assert (got.status_code, got.json()["code"]) == (504, "not_followed")
    assert "v3 is active now" in got.json()["detail"]


async def test_a_replica_that_does_not_follow_in_time_is_named(router: Router, published: Store) -> None:
    report(published, "v1", "r-1")
    async with admin_of(router, published) as client:
        got = await client.post("/models/v2/activate", json={"wait_s": 0.05})
    assert (got.status_code, got.json()["code"], got.json()["laggards"]) == (504, "not_followed", ["r-1"])
    assert active(published) == "v2"


async def test_a_draining_replica_waits_for_nobody(router: Router, published: Store) -> None:
    report(published, "v1", "r-1")
    router.status = Status(draining=True)
    async with admin_of(router, published) as client:
        got = await client.post("/models/v2/activate", json={"wait_s": 60})
    assert (got.status_code, got.json()["code"]) == (503, "draining")
    assert active(published) == "v2"


async def test_an_activation_that_no_replica_reports_to_follow_is_not_said_to_be_followed(
    router: Router, published: Store
) -> None:
    async with admin_of(router, published) as client:
        got = await client.post("/models/v2/activate", json={"wait_s": 0.05})
    assert (got.status_code, got.json()["code"], got.json()["laggards"]) == (504, "not_followed", [])


async def test_a_replica_that_begins_to_drain_stops_waiting(router: Router, published: Store) -> None:
    report(published, "v1", "r-1")
    async with admin_of(router, published) as client:
        waiting = await begun(client, published, wait_s=600)
        router.status = Status(draining=True)
        report(published, "v1", "r-1", draining=True)
        got = await waiting
    assert (got.status_code, got.json()["code"]) == (503, "draining")


async def test_a_rollback_returns_to_the_version_before(router: Router, published: Store) -> None:
    published.activate("v2")
    async with admin_of(router, published) as client:
        assert (await client.post("/models/rollback")).json()["model_version"] == "v1"
        assert (await client.post("/models/rollback")).json()["code"] == "no_previous"


@pytest.mark.parametrize("body", [{"steps": 2}, {"to": "v1"}, {"to": "v1", "if_active": "v3"}])
async def test_a_rollback_may_go_further(router: Router, published: Store, body: dict[str, Any]) -> None:
    published.activate("v2")
    published.activate("v3")
    async with admin_of(router, published) as client:
        assert (await client.post("/models/rollback", json=body)).json()["model_version"] == "v1"


async def test_a_rollback_may_wait_too(router: Router, published: Store) -> None:
    published.activate("v2")
    report(published, "v2", "r-1")
    async with admin_of(router, published) as client:
        got = await client.post("/models/rollback", json={"wait_s": 0.05})
    assert (got.status_code, got.json()["laggards"]) == (504, ["r-1"])


async def test_a_version_is_deleted(router: Router, published: Store) -> None:
    async with admin_of(router, published) as client:
        got = await client.delete("/models/v2")
        assert (got.status_code, got.content) == (204, b"")
    assert {info.version for info in published.versions()} == {"v1", "v3"}


async def test_a_version_in_use_is_not_deleted(router: Router, published: Store) -> None:
    published.set_traffic(Canary("v2", 5.0), None)
    published.pin("v3")
    async with admin_of(router, published) as client:
        codes = [(await client.delete(f"/models/{version}")).json()["code"] for version in ("v1", "v2", "v3")]
    assert codes == ["version_active", "version_pinned", "version_pinned"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/models/v2/activate", b'{"if_active": "v9"}', 409, "lost_race"),
        ("/models/..%2Fv2/activate", b"", 404, "not_found"),
        ("/models/v2/activate", b'{"if": "v1"}', 422, "bad_request"),
        ("/models/v2/activate", b'{"wait_s": 0}', 422, "bad_request"),
        ("/models/v2/activate", b'{"wait_s": 601}', 422, "bad_request"),
        ("/models/v2/activate", b"{", 400, "bad_json"),
        ("/models/v2/activate", b" " * 2001, 413, "body_too_large"),
        ("/models/rollback", b'{"steps": 1, "to": "v1"}', 422, "bad_request"),
        ("/models/rollback", b'{"steps": 0}', 422, "bad_request"),
        ("/models/rollback", b'{"if_active": "v9"}', 409, "lost_race"),
        ("/models/rollback", b'{"to": "v2"}', 409, "no_previous"),
    ],
)
async def test_what_cannot_be_done_changes_nothing(
    router: Router, published: Store, path: str, body: bytes, status: int, code: str
) -> None:
    async with admin_of(router, published) as client:
        answer = await client.post(path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert active(published) == "v1"


ADMIN_ROUTES = [
    ("GET", "/models"),
    *(("GET", "/models/v1"), ("DELETE", "/models/v1"), ("POST", "/models/v1/load"), ("POST", "/models/v1/unload")),
    *(("POST", "/models/v1/activate"), ("POST", "/models/rollback"), ("GET", "/traffic"), ("PUT", "/traffic")),
    *(("GET", "/replicas"), ("GET", "/events"), ("PATCH", "/catalog/items"), ("POST", "/catalog/items")),
    ("DELETE", "/catalog/items"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
async def test_every_admin_route_needs_the_token(router: Router, published: Store, method: str, path: str) -> None:
    async with admin_of(router, published) as client:
        client.headers["Authorization"] = "Bearer wrong"
        got = await client.request(method, path)
    assert (got.status_code, got.json()["code"]) == (401, "admin_denied")
    async with client_of(router) as client:
        got = await client.request(method, path)
    assert (got.status_code, got.json()["code"]) == (403, "admin_off")
