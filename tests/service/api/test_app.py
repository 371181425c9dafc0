"""The HTTP interface, in front of an engine that speaks real frames over a real socket."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from service.api.app import create_app
from service.api.control import ModelState, Route, Routes, Status
from service.api.engine_client import Router
from service.api.schemas import RecommendAnswer
from service.frames import Answer, Query

from .client import client_of, settings
from .little_engine import Behaviour, answer, engine, failing, info, routes, silent

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(router: Router, folder: Path, behaviour: Behaviour = answer) -> AsyncIterator[httpx.AsyncClient]:
    async with engine(folder, behaviour) as little, client_of(router) as client:
        await router.switch(routes(little))
        yield client


async def test_a_recommendation_is_complete(router: Router, folder: Path) -> None:
    async with serving(router, folder) as client:
        got = await client.post("/recommend", json={"history": ["a", "b"], "k": 2}, headers={"X-Request-Id": "r-1"})
    assert got.status_code == 200
    assert got.json() == {
        "request_id": "r-1",
        "model_version": "v1",
        "catalog_revision": 0,
        "items": [{"rank": 1, "item_id": "b-0", "score": 0.0}, {"rank": 2, "item_id": "b-1", "score": -1.0}],
        "exhausted": False,
        "source": "model",
        "history": {"used": 2, "unknown": 0, "truncated": 0},
        "warnings": [],
    }
    assert got.headers["X-Request-Id"] == "r-1"
    assert got.headers["X-Model-Version"] == "v1"
    assert got.headers["Server-Timing"].startswith("queue;dur=")


async def test_the_engine_gets_what_the_client_asked(router: Router, folder: Path) -> None:
    heard: list[Query] = []

    def behave(query: Query) -> Answer:
        heard.append(query)
        return answer(query)

    body = {"history": ["a"], "k": 3, "exclude": ["x"], "exclude_seen": False, "beam_width": 9, "timeout_ms": 5000}
    before = time.monotonic()
    async with serving(router, folder, behave) as client:
        await client.post("/recommend", json=body | {"return": ["codes"]})
    (query,) = heard
    assert (query.history, query.k, query.exclude, query.exclude_seen) == (["a"], 3, ["x"], False)
    assert (query.beam_width, query.with_codes, query.with_metadata, query.alone) == (9, True, False, False)
    assert before + 5 <= query.deadline <= time.monotonic() + 5


async def test_every_optional_part_is_there_and_metadata_is_copied_byte_for_byte(router: Router, folder: Path) -> None:
    wanted = {"history": ["a"], "k": 2, "return": ["metadata", "codes", "scores", "timings"]}
    async with serving(router, folder) as client:
        got = await client.post("/recommend", json=wanted)
    assert b'{"title":  "as it is"}' in got.content
    parsed = RecommendAnswer.model_validate_json(got.content)
    assert parsed.items[1].code == [1, 7]
    assert parsed.items[1].scores is not None
    assert (parsed.items[1].scores.code, parsed.items[1].scores.item) == (-2.0, 1.0)
    assert parsed.timings_ms is not None


async def test_popular_items_come_with_a_warning_and_without_code_scores(router: Router, folder: Path) -> None:
    def behave(query: Query) -> Answer:
        return answer(query, source="popular", used=0, unknown=2, code_scores=[], exhausted=True)

    async with serving(router, folder, behave) as client:
        got = await client.post("/recommend", json={"history": ["?", "!"], "k": 1, "return": ["scores"]})
    body = got.json()
    assert (body["source"], body["exhausted"], "scores" in body["items"][0]) == ("popular", True, False)
    assert body["warnings"] == ["2 history items are not in the catalog; none is known, so popular items answer"]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"history": ["a"] * 6}, ["/history"]),
        ({"history": [], "exclude": ["a"] * 5}, ["/exclude"]),
        ({"history": [], "timeout_ms": 60_001}, ["/timeout_ms"]),
        ({"history": [], "k": 51, "beam_width": 51}, ["/k", "/beam_width"]),
        ({"history": [1], "k": "x"}, ["/history/0", "/k"]),
    ],
)
async def test_a_value_above_a_limit_is_422_with_pointers(
    router: Router, folder: Path, body: dict[str, Any], pointers: list[str]
) -> None:
    async with serving(router, folder) as client:
        got = await client.post("/recommend", json=body)
    assert got.status_code == 422
    assert got.headers["Content-Type"] == "application/problem+json"
    assert [error["pointer"] for error in got.json()["errors"]] == pointers
    assert got.json()["request_id"] == got.headers["X-Request-Id"]


@pytest.mark.parametrize("content", [b"{", b'{"history": [NaN]}', b""])
async def test_what_is_not_json_is_400(router: Router, folder: Path, content: bytes) -> None:
    async with serving(router, folder) as client:
        got = await client.post("/recommend", content=content)
    assert (got.status_code, got.json()["code"]) == (400, "bad_json")


async def test_a_body_above_the_limit_is_413_by_its_announced_length(router: Router, folder: Path) -> None:
    async with serving(router, folder) as client:
        got = await client.post("/recommend", content=b" " * 2001)
    assert (got.status_code, got.json()["code"]) == (413, "body_too_large")


async def test_a_body_above_the_limit_is_413_before_it_is_read_to_its_end(router: Router, folder: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            assert sent < 10
            yield b" " * 1000

    async with serving(router, folder) as client:
        got = await client.post("/recommend", content=endless())
    assert (got.status_code, sent) == (413, 3)


@pytest.mark.parametrize(
    ("code", "status"),
    [("overloaded", 429), ("deadline_exceeded", 504), ("engine_failed", 500), ("engine_crashed", 500), ("bad_k", 422)],
)
async def test_a_failure_of_the_engine_has_its_status(router: Router, folder: Path, code: str, status: int) -> None:
    async with serving(router, folder, failing(code)) as client:
        got = await client.post("/recommend", json={"history": []})
    assert (got.status_code, got.json()["code"], got.json()["detail"]) == (status, code, "so it is")
    assert ("Retry-After" in got.headers) == (status == 429)


async def test_with_no_model_a_recommendation_is_503(router: Router) -> None:
    async with client_of(router) as client:
        got = await client.post("/recommend", json={"history": []})
    assert (got.status_code, got.json()["code"]) == (503, "not_ready")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "not_found"), ("GET", "/recommend", 405, "method_not_allowed")],
)
async def test_paths_and_methods_that_do_not_exist_are_problems_too(
    router: Router, method: str, path: str, status: int, code: str
) -> None:
    async with client_of(router) as client:
        got = await client.request(method, path)
    assert (got.status_code, got.json()["code"]) == (status, code)
    assert got.headers["Content-Type"] == "application/problem+json"
    assert (got.headers.get("Allow") == "POST") == (status == 405)


@pytest.mark.parametrize("given", ["", "a" * 129, "with space", "tab\t", "ümlaut".encode("latin-1").decode("latin-1")])
async def test_a_request_id_that_cannot_stand_in_a_header_is_replaced(router: Router, given: str) -> None:
    async with client_of(router) as client:
        got = await client.get("/health/live", headers=[(b"X-Request-Id", given.encode("latin-1"))])
    assert len(got.headers["X-Request-Id"]) == 32


async def test_a_fault_of_the_service_is_a_problem_that_tells_no_secret(router: Router, folder: Path) -> None:
    def behave(query: Query) -> Answer:
        return answer(query, scores=[])  # fewer scores than items: what no engine sends

    async with serving(router, folder, behave) as client:
        got = await client.post("/recommend", json={"history": []})
    assert (got.status_code, got.json()["code"]) == (500, "internal")
    assert "index" not in got.text


async def test_a_client_that_goes_cancels_its_query(router: Router, folder: Path) -> None:
    gone = asyncio.Event()
    sent: list[Message] = []
    body: list[Message] = [{"type": "http.request", "body": b'{"history": ["a"]}', "more_body": False}]

    async def receive() -> Message:
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": "/recommend", "raw_path": b"/recommend", "query_string": b"",
        "headers": [], "http_version": "1.1", "root_path": "", "scheme": "http", "server": ("service", 80),
    }  # fmt: skip
    async with engine(folder, silent) as little:
        await router.switch(routes(little))
        request = asyncio.create_task(create_app(settings(), router)(scope, receive, send))
        await little.wait_for(lambda: bool(little.queries))
        gone.set()
        await little.wait_for(lambda: bool(little.cancelled))
        await request
    assert not sent


async def test_the_openapi_document_shows_requests_answers_and_problems(router: Router) -> None:
    async with client_of(router) as client:
        document = (await client.get("/openapi.json")).json()
    recommend = document["paths"]["/recommend"]["post"]
    body = recommend["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].removeprefix("#/components/schemas/")
    assert {"history", "k", "return", "timeout_ms"} <= document["components"]["schemas"][name]["properties"].keys()
    assert recommend["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("RecommendAnswer")
    assert recommend["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"].endswith(
        "Problem"
    )
    assert "HTTPValidationError" not in json.dumps(document)
    assert {"pointer", "detail"} == document["components"]["schemas"]["FieldProblem"]["properties"].keys()


async def test_live_asks_nobody(router: Router) -> None:
    async with client_of(router) as client:
        assert (await client.get("/health/live")).json() == {"status": "live"}


async def test_probes_may_ask_with_head(router: Router) -> None:
    async with client_of(router) as client:
        live, ready = await client.head("/health/live"), await client.head("/health/ready")
    assert (live.status_code, ready.status_code) == (200, 503)


FAILED = ModelState("v2", "failed", 0.0, "checksum differs", 9.0)
LOADED = Routes(1, Route("/nowhere", info()))
READINESS = [
    (Status(), None, 503, "not_ready", "starting"),
    (Status(redis="ok"), None, 503, "not_ready", "no model is active: publish"),
    (Status(redis="unreachable", redis_reason="Redis is off"), None, 503, "not_ready", "Redis is off"),
    (Status(redis="ok", active_version="v1"), None, 503, "not_ready", "v1 is being loaded"),
    (Status(redis="ok", active_version="v2", models=(FAILED,)), None, 503, "not_ready", "v2 failed: checksum differs"),
    (Status(active_version="v1", catalog_unknown="F is bad"), None, 503, "not_ready", "F is bad; nothing is served"),
    (Status(redis="lost", catalog_unknown="F", catalog_lost=True), None, 503, "not_ready", "restore --forget-changes"),
    (
        Status(redis="unreachable", redis_reason="R is off", catalog_unknown="F"),
        None,
        503,
        "not_ready",
        "tells R is off",
    ),
    (Status(redis="ok", active_version="v1"), LOADED, 503, "not_ready", "successor is starting"),
    (Status(redis="ok", active_version="v1"), "engine", 200, "ready", ""),
    (Status(redis="ok", active_version="v1", draining=True), "engine", 503, "not_ready", "draining"),
    (Status(redis="unreachable", redis_reason="Redis is off", active_version="v1"), "engine", 200, "degraded", "off"),
    (Status(redis="ok", redis_refusal="R is full", active_version="v1"), "engine", 200, "degraded", "R is full; what"),
    (Status(redis="ok", catalog_lost=True, active_version="v1"), "engine", 200, "degraded", "lost the changes of"),
    (Status(redis="lost", active_version="v1"), "engine", 200, "degraded", "lost the name of the active model"),
    (Status(redis="ok", active_version="v2", models=(FAILED,)), "engine", 200, "degraded", "v2 failed: checksum"),
    (Status(redis="ok", active_version="v2"), "engine", 200, "degraded", "v2 is being loaded, v1 answers"),
]


@pytest.mark.parametrize(("status", "loaded", "code", "verdict", "says"), READINESS)
async def test_readiness_tells_why(
    router: Router, folder: Path, status: Status, loaded: Routes | str | None, code: int, verdict: str, says: str
) -> None:
    router.status = status
    async with engine(folder) as little, client_of(router) as client:
        if loaded:
            await router.switch(routes(little) if isinstance(loaded, str) else loaded)
        got = await client.get("/health/ready")
    body = got.json()
    assert (got.status_code, body["status"]) == (code, verdict)
    assert says in " ".join(body["reasons"] + body["notes"])
    assert body["redis"]["state"] == status.redis


async def test_while_draining_connections_are_not_kept(router: Router) -> None:
    async with client_of(router) as client:
        assert "Connection" not in (await client.get("/health/live")).headers
        router.status = Status(draining=True)
        assert (await client.get("/health/live")).headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("token", "header", "status"),
    [
        (None, "Bearer secret", 403),
        ("secret", None, 401),
        ("secret", "Bearer wrong", 401),
        ("secret", "Bearer ", 401),
        ("secret", "Basic secret", 401),
        ("secret", "Bearer s\xe9cret", 401),
        ("secret", "Bearer secret", 503),  # let in; there is no Redis behind this worker
    ],
)
@pytest.mark.parametrize("path", ["/models/v1/activate", "/models/rollback"])
async def test_changing_models_needs_the_token(
    router: Router, path: str, token: str | None, header: str | None, status: int
) -> None:
    headers = [(b"Authorization", header.encode("latin-1"))] if header else []
    async with client_of(router, admin_token=token) as client:
        got = await client.post(path, headers=headers)
    assert got.status_code == status
    assert ("WWW-Authenticate" in got.headers) == (status == 401)


async def test_models_are_listed_without_redis_as_far_as_they_are_known(router: Router) -> None:
    router.status = Status(redis="unreachable", active_version="v1", models=(FAILED,))
    async with client_of(router, admin_token="secret") as client:
        body = (await client.get("/models", headers={"Authorization": "Bearer secret"})).json()
    assert (body["active_version"], body["redis"]["state"]) == ("v1", "unreachable")
    assert [(row["model_version"], row["state"], row["reason"]) for row in body["models"]] == [
        ("v2", "failed", "checksum differs")
    ]


async def test_metrics_count_requests_by_status_and_show_what_the_supervisor_knows(
    router: Router, folder: Path
) -> None:
    router.status = Status(engine_restarts=3, swaps={"failure": 2}, stale_since=time.monotonic() - 100)
    async with serving(router, folder) as client:
        await client.post("/recommend", json={"history": []})
        lines = (await client.get("/metrics")).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['prorec_requests_total{status="200"}']) >= 1
    assert float(values["prorec_engine_restarts_total"]) == 3
    assert float(values['prorec_model_swap_total{result="failure"}']) == 2
    assert float(values["prorec_catalog_staleness_seconds"]) >= 100
    assert any(name.startswith("prorec_model_info{") and 'model_version="v1"' in name for name in values)


async def test_what_asks_for_no_recommendation_is_not_counted_as_one(router: Router, folder: Path) -> None:
    async with serving(router, folder) as client:
        assert (await client.get("/recommend")).status_code == 405
        assert (await client.options("/recommend/batch")).status_code == 405
        metrics = (await client.get("/metrics")).text
    assert 'prorec_requests_total{status="405"}' not in metrics


@pytest.mark.parametrize(
    ("status", "up", "writable"),
    [
        (Status(redis="ok"), 1, 1),
        (Status(redis="lost"), 1, 1),
        (Status(redis="ok", redis_refusal="full"), 1, 0),
        (Status(redis="unreachable"), 0, 0),
    ],
)
async def test_metrics_say_whether_redis_answers_and_takes_changes(
    router: Router, status: Status, up: float, writable: float
) -> None:
    router.status = status
    async with client_of(router) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    assert {f"prorec_redis_up {up:.1f}", f"prorec_redis_writable {writable:.1f}"} <= set(lines)


async def test_version_names_programs_model_and_limits(router: Router, folder: Path) -> None:
    router.status = Status(catalog_revision=7)
    async with serving(router, folder) as client:
        body = (await client.get("/version")).json()
    assert body["service"]
    assert body["python"]
    assert body["onnxruntime"]
    assert (body["model_version"], body["provider"], body["catalog_revision"]) == ("v1", "CPUExecutionProvider", 7)
    assert body["precision"] == "fp32"
    assert body["codes"] == {"length": 3, "tokens_per_level": 8}
    limits = body["limits"]
    assert (limits["k"], limits["beam_widths"], limits["history_items"], limits["body_bytes"]) == (50, [4, 50], 5, 2000)
    assert (limits["batch_requests"], limits["filter_values"], limits["catalog_items"]) == (100, 1000, 1000)
    assert (limits["default_timeout_ms"], limits["queue"], limits["batch_rows"]) == (10_000, 1024, 64)


async def test_without_a_model_its_limits_are_unknown(router: Router) -> None:
    async with client_of(router) as client:
        body = (await client.get("/version")).json()
    assert (body["model_version"], body["provider"], body["codes"], body["limits"]["k"]) == (None, None, None, None)
    assert body["precision"] is None
    assert body["limits"]["exclude_items"] == 4
