"""What every request passes first and last: its ids, its clock, the metrics, and a net for what nobody foresaw."""

import logging
import re
import time
import uuid
from functools import cache
from typing import Any, Final

from prometheus_client import Counter
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.log_format import log_fields

from .engine_client import Router
from .problems import Unexpected, respond
from .tracing import Trace, Tracing

RECOMMEND: Final = "/recommend"
BATCH: Final = "/recommend/batch"
_PROBES: Final = "/health/"
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_CLIENT_GONE: Final = 499
_WATCHED: Final = (200, 429, 500, 503, 504)  # statuses that alerts ask about

logger = logging.getLogger(__name__)


class Exchange:
    """One request and its answer on their way through a worker."""

    def __init__(self, scope: Scope, headers: Headers, send: Send, *, closing: bool) -> None:
        self.started = time.perf_counter()
        self.request_id = request_id(headers.get("x-request-id"))
        self.status = 0  # until the answer has started
        self.attributes: dict[str, Any] = {}  # for the span; filled by whoever answers
        self._scope = scope
        self._send = send
        self._closing = closing
        scope.setdefault("state", {}).update(
            request_id=self.request_id, started=self.started, attributes=self.attributes
        )

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self.request_id.encode("latin-1"))]
            if self._closing:
                headers.append((b"connection", b"close"))  # so that clients leave before the socket does
            message = {**message, "headers": headers}
        await self._send(message)

    @property
    def duration_s(self) -> float:
        return time.perf_counter() - self.started

    @property
    def route(self) -> str:
        """The path as the interface describes it, which holds no id."""
        return getattr(self._scope.get("route"), "path", "unknown")

    def finish(self, trace: Trace) -> None:
        """Metrics, span and log line."""
        method, path, status = self._scope["method"], self._scope["path"], self.status
        # Other methods ask for no recommendation, and the rows of a batch that was answered were counted.
        if method == "POST" and (path == RECOMMEND or (path == BATCH and status != 200)):
            count(status, self.duration_s)
        trace.finish(f"{method} {self.route}", self._span_attributes())
        level = logging.WARNING if status >= 500 and not path.startswith(_PROBES) else logging.DEBUG
        if logger.isEnabledFor(level):
            duration_ms = round(self.duration_s * 1000, 3)
            fields = {"method": method, "path": path, "status": status, "duration_ms": duration_ms}
            line = "request %s: %s %s → %d in %.1f ms"
            logger.log(level, line, self.request_id, method, path, status, duration_ms, extra=fields)

    def _span_attributes(self) -> dict[str, Any]:
        return {
            "http.request.method": self._scope["method"],
            "http.route": self.route,
            "http.response.status_code": self.status,
            "prorec.request_id": self.request_id,
        } | self.attributes


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, router: Router, tracing: Tracing) -> None:
        self._app = app
        self._router = router
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = Exchange(scope, headers, send, closing=self._router.status.draining)
        with (
            self._tracing.request(headers) as trace,
            log_fields(request_id=exchange.request_id, trace_id=trace.trace_id),
        ):
            if scope["path"] == RECOMMEND and scope["method"] == "POST":
                with metrics.IN_FLIGHT.track_inprogress():
                    await self._pass(exchange, scope, receive)
            else:
                await self._pass(exchange, scope, receive)
            exchange.finish(trace)

    async def _pass(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = _CLIENT_GONE
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            await _apologise(exchange, scope, receive)


def request_id(given: str | None) -> str:
    """The client's, if it can stand in a header and a log line."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def count(status: int, duration_s: float) -> None:
    """One recommendation was answered."""
    _answered(status).inc()
    metrics.REQUEST_DURATION.observe(duration_s)


def count_from_zero() -> None:
    """Makes the series that alerts ask about: a rate would miss the first burst of one that is born with it."""
    for status in _WATCHED:
        _answered(status)


@cache
def _answered(status: int) -> Counter:
    return metrics.REQUESTS.labels(status)


async def _apologise(exchange: Exchange, scope: Scope, receive: Receive) -> None:
    if not exchange.status:
        await respond(UNFORESEEN, exchange.request_id)(scope, receive, exchange.send)


UNFORESEEN: Final = Unexpected("this request met a fault of the service; its log tells more under the request id")
