"""httpx for many requests at once: a transport for each connection, and a stack of idle ones.

httpx's pool looks through all its connections and all waiting requests whenever one begins or ends, so that its cost a
request grows with the number in flight: at 128 it takes longer than many a service does.
"""

import asyncio
import collections
import functools
import ssl
from collections.abc import Callable

import httpx

_LIMITS = httpx.Limits(max_connections=1, max_keepalive_connections=1)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """One for all lanes: each would read all certificates anew, and hold the event loop up for milliseconds."""
    return httpx.create_ssl_context()


class Lanes(httpx.AsyncBaseTransport):
    """An httpx transport that opens as many connections as there are requests in flight, and keeps them."""

    def __init__(self, connect: Callable[[], httpx.AsyncBaseTransport] | None = None) -> None:
        self._connect = connect or functools.partial(httpx.AsyncHTTPTransport, limits=_LIMITS, verify=_certificates())
        self._idle: dict[bytes, list[httpx.AsyncBaseTransport]] = collections.defaultdict(list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The whole answer, read; raises httpx.HTTPError."""
        idle = self._idle[request.url.netloc]
        lane = idle.pop() if idle else self._connect()
        try:
            response = await lane.handle_async_request(request)
            content = await response.aread()
        except BaseException:
            await asyncio.shield(lane.aclose())
            raise
        idle.append(lane)
        return httpx.Response(
            response.status_code, headers=response.headers, content=content, extensions=response.extensions
        )

    send = handle_async_request

    async def aclose(self) -> None:
        for idle in self._idle.values():
            while idle:
                await idle.pop().aclose()
