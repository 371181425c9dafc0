"""Many requests in one: in order, together, and each for itself."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from service.api.app import create_app
from service.api.engine_client import Router
from service.api.schemas import BatchAnswer
from service.frames import Answer, Query

from .client import client_of, settings
from .little_engine import answer, engine, routes, silent

pytestmark = pytest.mark.anyio


def counted(text: str, status: int) -> float:
    name = f'prorec_requests_total{{status="{status}"}} '
    return next((float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)), 0.0)


async def test_answers_come_in_the_order_of_the_requests(router: Router, folder: Path) -> None:
    requests = [{"history": [name], "k": 1, "return": ["metadata"]} for name in ("a", "b", "c")]
    async with engine(folder) as little, client_of(router) as client:
        await router.switch(routes(little))
        got = await client.post("/recommend/batch", json={"requests": requests}, headers={"X-Request-Id": "r-1"})
    assert got.status_code == 200
    parsed = BatchAnswer.model_validate_json(got.content)
    found = [row.recommendation for row in parsed.results if row.recommendation]
    assert [one.items[0].item_id for one in found] == ["a-0", "b-0", "c-0"]
    assert [one.request_id for one in found] == ["r-1/0", "r-1/1", "r-1/2"]
    assert (parsed.request_id, got.headers["X-Request-Id"]) == ("r-1", "r-1")
    assert got.headers["Server-Timing"].startswith("total;dur=")


async def test_a_bad_request_fails_no_other(router: Router, folder: Path) -> None:
    def behave(query: Query) -> Answer:
        return answer(query, scores=[]) if query.history == ["broken"] else answer(query)

    requests: list[Any] = [
        *({"history": ["a"]}, {"history": [1]}, 7, {"history": ["a"] * 6}, {"history": [], "model_version": "v9"}),
        *({"history": ["broken"]}, {"history": ["b"]}),
    ]
    async with engine(folder, behave) as little, client_of(router) as client:
        await router.switch(routes(little))
        got = await client.post("/recommend/batch", json={"requests": requests})
    rows = got.json()["results"]
    assert [row["status"] for row in rows] == [200, 422, 422, 422, 409, 500, 200]
    problems = [row["problem"] for row in rows if "problem" in row]
    assert [[error["pointer"] for error in one.get("errors", [])] for one in problems] == [
        ["/requests/1/history/0"], ["/requests/2"], ["/requests/3/history"], [], [],
    ]  # fmt: skip
    assert [one["detail"].partition(" ")[0] for one in problems[:3]] == [
        "/requests/1/history/0", "/requests/2", "/requests/3/history",
    ]  # fmt: skip
    assert {one["request_id"] for one in problems} == {got.headers["X-Request-Id"]}
    BatchAnswer.model_validate_json(got.content)


async def test_all_queries_reach_the_engine_before_any_is_answered(router: Router, folder: Path) -> None:
    heard: list[Query] = []

    async with engine(folder) as little, client_of(router) as client:

        def behave(query: Query) -> None:
            heard.append(query)
            if len(heard) == 3:
                for one in heard:
                    little.reply(answer(one))

        little.behaviour = behave
        await router.switch(routes(little))
        got = await client.post("/recommend/batch", json={"requests": [{"history": []}] * 3})
    assert [row["status"] for row in got.json()["results"]] == [200] * 3


async def test_requests_above_the_limit_of_admission_are_429_each(folder: Path) -> None:
    router = Router(in_flight_limit=2)
    async with engine(folder) as little, client_of(router) as client:
        await router.switch(routes(little))
        got = await client.post("/recommend/batch", json={"requests": [{"history": []}] * 3})
        await router.close()
    assert [row["status"] for row in got.json()["results"]] == [200, 200, 429]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"requests": [{"history": []}] * 4}, ["/requests"]),
        ({"requests": []}, ["/requests"]),
        ({"requests": {}, "other": 1}, ["/requests", "/other"]),
        ({"requests": [{"history": []}], "timeout_ms": 60_001}, ["/timeout_ms"]),
        ({}, ["/requests"]),
    ],
)
async def test_a_batch_that_is_wrong_as_a_whole_is_422(router: Router, body: Any, pointers: list[str]) -> None:
    async with client_of(router, max_batch_requests=3) as client:
        got = await client.post("/recommend/batch", json=body)
    assert (got.status_code, [error["pointer"] for error in got.json()["errors"]]) == (422, pointers)


async def test_the_limit_of_a_body_holds_for_a_batch(router: Router) -> None:
    async with client_of(router) as client:
        got = await client.post("/recommend/batch", content=b" " * 2001)
    assert got.status_code == 413


async def test_the_timeout_of_the_batch_bounds_those_of_its_requests(router: Router, folder: Path) -> None:
    requests = [{"history": []}, {"history": [], "timeout_ms": 20}, {"history": [], "timeout_ms": 50_000}]
    async with engine(folder) as little, client_of(router) as client:
        await router.switch(routes(little))
        await client.post("/recommend/batch", json={"requests": requests, "timeout_ms": 9000})
    first, second, third = (query.deadline for query in little.queries)
    assert first - 9 == pytest.approx(third - 9, abs=1)
    assert first - second > 5


async def test_every_request_of_a_batch_is_counted_by_its_status(router: Router, folder: Path) -> None:
    async with engine(folder) as little, client_of(router) as client:
        await router.switch(routes(little))
        before = (await client.get("/metrics")).text
        await client.post("/recommend/batch", json={"requests": [{"history": []}, {"history": []}, {}]})
        await client.post("/recommend/batch", json={"requests": []})
        after = (await client.get("/metrics")).text
    assert counted(after, 200) - counted(before, 200) == 2
    assert counted(after, 422) - counted(before, 422) == 2


async def test_a_client_that_goes_cancels_every_query_of_its_batch(router: Router, folder: Path) -> None:
    gone = asyncio.Event()
    body: list[Message] = [
        {"type": "http.request", "body": b'{"requests": [{"history": []}, {"history": []}]}', "more_body": False}
    ]

    async def receive() -> Message:
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        raise AssertionError("nobody is there")

    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": "/recommend/batch", "raw_path": b"/recommend/batch",
        "query_string": b"", "headers": [], "http_version": "1.1", "root_path": "", "scheme": "http",
        "server": ("service", 80),
    }  # fmt: skip
    async with engine(folder, silent) as little:
        await router.switch(routes(little))
        request = asyncio.create_task(create_app(settings(), router)(scope, receive, send))
        await little.wait_for(lambda: len(little.queries) == 2)
        gone.set()
        await little.wait_for(lambda: len(little.cancelled) == 2)
        await request
