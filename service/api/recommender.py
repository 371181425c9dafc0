"""From what a client asks to what an engine answered, for one request or for one row of a batch."""

import asyncio
import logging
import time
from typing import Any

import msgspec

from service import metrics
from service.errors import BadRequest, FieldError, ServiceError, problem
from service.settings import Settings

from . import answers
from .answers import BatchRow
from .body import check
from .canary import sticky_key
from .edge import UNFORESEEN, count
from .engine_client import Router, Served
from .queries import check_limits, to_query
from .schemas import BatchRequest, RecommendRequest

logger = logging.getLogger(__name__)


class Recommender:
    """Asks the engines that `router` leads to, within the limits of `settings`."""

    def __init__(self, settings: Settings, router: Router) -> None:
        self._settings = settings
        self._router = router

    async def serve(self, wanted: RecommendRequest, longest_ms: int | None = None) -> Served:
        """`longest_ms` bounds the timeout. Raises BadRequest for a limit crossed, and what `Router.ask` raises."""
        router, version = self._router, wanted.model_version
        check_limits(wanted, self._settings, router.info if version is None else router.info_of(version))
        timeout_ms = wanted.timeout_ms or longest_ms or self._settings.default_timeout_ms
        query = to_query(wanted, router.next_id(), min(timeout_ms, longest_ms or timeout_ms))
        return await router.ask(query, version=version, sticky_key=sticky_key(wanted.user_id, wanted.history))

    async def serve_batch(self, wanted: BatchRequest, request_id: str, started: float) -> list[BatchRow]:
        """One outcome a request, in order. All queries leave at once, so that the engine can put them in one batch."""
        rows = (self._row(place, row, wanted, request_id, started) for place, row in enumerate(wanted.requests))
        return await asyncio.gather(*rows)

    async def _row(self, place: int, value: Any, batch: BatchRequest, request_id: str, started: float) -> BatchRow:
        with metrics.IN_FLIGHT.track_inprogress():
            try:
                row = await self._recommendation(value, batch, f"{request_id}/{place}", started)
            except ServiceError as error:
                row = BatchRow(error.status, problem=problem(_in_row(error, place), request_id))
            except Exception:
                logger.exception("row %d of request %s failed", place, request_id)
                row = BatchRow(UNFORESEEN.status, problem=problem(UNFORESEEN, request_id))
        count(row.status, time.perf_counter() - started)
        return row

    async def _recommendation(self, value: Any, batch: BatchRequest, row_id: str, started: float) -> BatchRow:
        wanted = check(value, RecommendRequest)
        served = await self.serve(wanted, batch.timeout_ms)
        body = answers.encode(served, row_id, wanted.parts, time.perf_counter() - started)
        return BatchRow(200, recommendation=msgspec.Raw(body))


def _in_row(error: ServiceError, place: int) -> ServiceError:
    """With pointers that start at the batch."""
    if isinstance(error, BadRequest):
        first = error.errors[0]["pointer"] if error.errors else ""
        named, sentence = first or "the body", str(error)
        if sentence.startswith(named):
            error.args = (f"/requests/{place}{first}{sentence.removeprefix(named)}",)
        error.errors = [
            FieldError(pointer=f"/requests/{place}{wrong['pointer']}", detail=wrong["detail"]) for wrong in error.errors
        ]
    return error
