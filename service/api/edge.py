"""What every request passes first and last: its id, its clock, the metrics, and a net for what nobody foresaw."""

import logging
import re
import time
import uuid
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics

from .engine_client import Router
from .problems import Unexpected, respond

RECOMMEND: Final = "/recommend"
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_CLIENT_GONE: Final = 499

logger = logging.getLogger(__name__)


class Exchange:
    """One request and its answer on their way through a worker."""

    def __init__(self, scope: Scope, send: Send, *, closing: bool) -> None:
        self.started = time.perf_counter()
        self.request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        self.status = 0  # until the answer has started
        self._send = send
        self._closing = closing
        scope.setdefault("state", {}).update(request_id=self.request_id, started=self.started)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            if self._closing:
                headers["Connection"] = "close"  # so that clients leave before the socket does
        await self._send(message)

    def count(self) -> None:
        metrics.REQUESTS.labels(self.status).inc()
        metrics.REQUEST_DURATION.observe(time.perf_counter() - self.started)


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self._app = app
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, send, closing=self._router.status.draining)
        if scope["path"] == RECOMMEND:
            with metrics.IN_FLIGHT.track_inprogress():
                await self._pass(exchange, scope, receive)
            exchange.count()
        else:
            await self._pass(exchange, scope, receive)

    async def _pass(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = _CLIENT_GONE
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            await _apologise(exchange, scope, receive)


async def _apologise(exchange: Exchange, scope: Scope, receive: Receive) -> None:
    if not exchange.status:
        error = Unexpected("this request met a fault of the service; its log tells more under the request id")
        await respond(error, exchange.request_id)(scope, receive, exchange.send)


def _request_id(given: str | None) -> str:
    """The client's, if it can stand in a header and a log line."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
