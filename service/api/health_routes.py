"""What probes and scrapers ask, and what runs here."""

import asyncio
import platform
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.settings import Settings

from . import exposition, readiness
from .engine_client import Router
from .health_schemas import CodeShape, Limits, Live, Ready, Version


def create_health_routes(settings: Settings, router: Router) -> APIRouter:
    """Everything that needs no token, no Redis and no engine."""
    api = APIRouter(tags=["health"])

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
        """What runs here, and its limits."""
        return describe_version(settings, router)

    text: dict[int | str, dict[str, Any]] = {
        200: {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}, "example": _METRICS}}}
    }
    not_ready: dict[int | str, dict[str, Any]] = {
        503: {"model": Ready, "description": "Not ready; the same document says why."}
    }
    api.get("/health/live")(live)
    api.get("/health/ready", responses=not_ready)(ready)
    for path, probe in (("/health/live", live), ("/health/ready", ready)):  # some load balancers ask like that
        api.head(path, include_in_schema=False)(probe)
    api.get("/metrics", response_class=Response, responses=text)(metrics)
    api.get("/version")(versions)
    return api


def describe_version(settings: Settings, router: Router) -> Version:
    """Programs, model and limits, as this worker knows them."""
    info = router.info
    return Version(
        service=version("prorec-serve"),
        python=platform.python_version(),
        onnxruntime=version("onnxruntime-gpu"),
        provider=info.provider if info else None,
        precision=info.precision if info else None,
        model_version=info.model_version if info else None,
        catalog_revision=router.status.catalog_revision,
        codes=CodeShape(length=info.code_length, tokens_per_level=info.tokens_per_level) if info else None,
        limits=Limits(
            body_bytes=settings.max_body_bytes,
            catalog_body_bytes=settings.max_catalog_body_bytes,
            history_items=settings.max_history,
            exclude_items=settings.max_exclude,
            filter_values=settings.max_filter_values,
            batch_requests=settings.max_batch_requests,
            catalog_items=settings.max_catalog_items,
            k=info.beam_widths[-1] if info else None,
            beam_widths=info.beam_widths if info else None,
            default_timeout_ms=settings.default_timeout_ms,
            max_timeout_ms=settings.max_timeout_ms,
            queue=settings.queue_limit,
            batch_rows=settings.max_batch_rows,
        ),
    )


_METRICS = """# HELP prorec_requests_total Recommendation requests answered, by HTTP status
# TYPE prorec_requests_total counter
prorec_requests_total{status="200"} 1234.0
"""
