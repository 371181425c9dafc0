"""`POST /recommend`, and what probes and scrapers ask."""

import asyncio
import platform
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.errors import FieldError
from service.frames import EngineInfo, Query
from service.settings import Settings

from . import answers, exposition, readiness
from .body import bad_request, parse, read_body
from .edge import RECOMMEND
from .engine_client import Router
from .schemas import Live, Ready, RecommendAnswer, RecommendRequest, Version


def create_routes(settings: Settings, router: Router) -> APIRouter:
    """Everything that needs no token and no Redis."""
    api = APIRouter()

    async def recommend(request: Request) -> Response:
        """Recommends the next items for a history.

        Fewer than `k` items come back only if no more are legal; then `exhausted` is true.
        """
        wanted = parse(await read_body(request, settings.max_body_bytes), RecommendRequest)
        check_limits(wanted, settings, router.info)
        async with cancelled_with_client(request.receive):
            served = await router.ask(_query(wanted, router.next_id(), settings))
        total_s = time.perf_counter() - request.state.started
        headers = {
            "X-Model-Version": served.info.model_version,
            "Server-Timing": answers.server_timing(served.answer, total_s),
        }
        body = answers.encode(served, request.state.request_id, wanted.parts, total_s)
        return Response(body, 200, headers, "application/json")

    async def live() -> Live:
        """Whether the process runs; never asks Redis or an engine."""
        return Live()

    async def ready(response: Response) -> Ready:
        """Whether requests can be answered, why not, and what is not as it should be."""
        health = readiness.health(router)
        response.status_code = 503 if health.status == "not_ready" else 200
        return health

    async def metrics() -> Response:
        """Prometheus metrics of the whole replica."""
        return Response(await asyncio.to_thread(exposition.render, router), media_type=CONTENT_TYPE_LATEST)

    async def versions() -> Version:
        """What runs here."""
        return Version(
            service=version("prorec-serve"),
            python=platform.python_version(),
            onnxruntime=version("onnxruntime-gpu"),
            model_version=router.info.model_version if router.info else None,
        )

    api.post(RECOMMEND, response_model=RecommendAnswer, openapi_extra=_request_body(), tags=["recommend"])(recommend)
    api.get("/health/live", tags=["health"])(live)
    api.get("/health/ready", tags=["health"], responses={503: {"model": Ready}})(ready)
    api.get("/metrics", tags=["health"])(metrics)
    api.get("/version", tags=["health"])(versions)
    return api


def check_limits(wanted: RecommendRequest, settings: Settings, info: EngineInfo | None) -> None:
    """Raises BadRequest naming every field above a limit of this service or, as far as it is known, of the model."""
    limits = [
        ("/history", len(wanted.history), settings.max_history, "has {} items, at most {} are allowed"),
        ("/exclude", len(wanted.exclude), settings.max_exclude, "has {} items, at most {} are allowed"),
        ("/timeout_ms", wanted.timeout_ms or 0, settings.max_timeout_ms, "is {}, it must be at most {}"),
    ]
    if info:
        sentence = "is {}, the largest beam width of model " + info.model_version + " is {}"
        limits.append(("/k", wanted.k, info.beam_widths[-1], sentence))
        limits.append(("/beam_width", wanted.beam_width or 0, info.beam_widths[-1], sentence))
    above = [
        FieldError(pointer=pointer, detail=sentence.format(found, limit))
        for pointer, found, limit, sentence in limits
        if found > limit
    ]
    if above:
        raise bad_request(above)


@asynccontextmanager
async def cancelled_with_client(receive: Receive) -> AsyncIterator[None]:
    """Cancels the block, and raises ClientDisconnect, when the client goes; the request's body must have been read."""
    task = asyncio.current_task()
    assert task is not None
    watcher = asyncio.create_task(_watch(receive, task))
    try:
        yield
    except asyncio.CancelledError:
        if watcher.done() and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()


async def _watch(receive: Receive, task: "asyncio.Task[Any]") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def _query(wanted: RecommendRequest, query_id: int, settings: Settings) -> Query:
    timeout_ms = wanted.timeout_ms or settings.default_timeout_ms
    return Query(
        query_id,
        wanted.history,
        wanted.k,
        deadline=time.monotonic() + timeout_ms / 1000,
        exclude=wanted.exclude,
        exclude_seen=wanted.exclude_seen,
        beam_width=wanted.beam_width,
        with_metadata="metadata" in wanted.parts,
        with_codes="codes" in wanted.parts,
    )


def _request_body() -> dict[str, Any]:
    """The handler reads the body itself, to count its bytes; this tells OpenAPI what it expects."""
    schema = RecommendRequest.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
