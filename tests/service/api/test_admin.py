"""Models over HTTP, with a real Redis behind the worker."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.control import ModelState, Status
from service.api.engine_client import Router
from service.store import Store
from tests.service.plain_artifact import plain_artifact

from .client import client_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Store:
    """v1 and v2 are there, v1 is active."""
    for seed, version in enumerate(("v1", "v2")):
        store.publish(plain_artifact(tmp_path, version, seed=seed))
    store.activate("v1")
    return store


def admin(router: Router, store: Store, **values: Any) -> httpx.AsyncClient:
    client = client_of(router, redis_url=store.url, namespace=store.keys.namespace, admin_token="secret", **values)
    client.headers["Authorization"] = "bearer secret"
    return client


async def test_models_join_what_redis_holds_with_what_this_replica_does(router: Router, published: Store) -> None:
    router.status = Status(redis="ok", models=(ModelState("v1", "active", 0.0), ModelState("gone", "draining", 0.0)))
    async with admin(router, published) as client:
        body = (await client.get("/models")).json()
    assert (body["active_version"], body["epoch"], body["previous"]) == ("v1", 1, [])
    assert {row["model_version"]: row["state"] for row in body["models"]} == {
        "v1": "active", "v2": "published", "gone": "draining",
    }  # fmt: skip
    assert body["models"][0]["metrics"] == {"model": {"recall@10": 0.5}}


async def test_an_activation_changes_redis_and_asks_for_another_attempt(router: Router, published: Store) -> None:
    asked: list[str] = []
    router.request_retry = lambda: asked.append("again")
    async with admin(router, published) as client:
        for _ in range(2):  # the second changes nothing in Redis, and so nothing there would tell the supervisor
            answer = await client.post("/models/v2/activate", json={"if_active": None})
            assert answer.json() == {"model_version": "v2", "epoch": 2, "previous": ["v1"]}
    assert asked == ["again", "again"]


async def test_a_rollback_returns_to_the_version_before(router: Router, published: Store) -> None:
    published.activate("v2")
    async with admin(router, published) as client:
        assert (await client.post("/models/rollback")).json()["model_version"] == "v1"
        assert (await client.post("/models/rollback")).json()["code"] == "no_previous"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/models/v2/activate", b'{"if_active": "v9"}', 409, "lost_race"),
        ("/models/v3/activate", b"", 404, "unknown_version"),
        ("/models/..%2Fv2/activate", b"", 404, "not_found"),
        ("/models/v2/activate", b'{"if": "v1"}', 422, "bad_request"),
        ("/models/v2/activate", b"{", 400, "bad_json"),
    ],
)
async def test_what_cannot_be_activated_changes_nothing(
    router: Router, published: Store, path: str, body: bytes, status: int, code: str
) -> None:
    async with admin(router, published) as client:
        answer = await client.post(path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    active = published.deployment()
    assert active is not None
    assert active.version == "v1"
