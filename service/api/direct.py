"""One route without the framework around it.

The framework's middlewares and its routing took more of a worker's time than everything this service does for a
recommendation. The route stays registered with it, for its description and for the methods it does not take.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError

from .problems import on_service_error

Handler = Callable[[Request], Awaitable[Response]]

METHOD: Final = "POST"


class Direct:
    """An ASGI application of one handler; `path` is what traces call it."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path = path
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        request = Request(scope, receive)
        try:
            response = await self._handler(request)
        except ServiceError as error:
            response = await on_service_error(request, error)
        await response(scope, receive, send)
