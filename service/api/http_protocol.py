"""HTTP/1.1 as uvicorn reads it, from clients that may be slow, broken or hostile.

uvicorn waits for the rest of a request for ever and keeps all that its head says, so a few thousand connections that
send a byte now and then, or one that never ends its headers, would take a worker with them. A request that arrives
whole, as nearly all do, costs a few flags here and no timer.
"""

import asyncio
import json
import uuid
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import PROBLEM_MEDIA_TYPE, ServiceError, problem

from .problems import BadHttp, HeadTooLarge, RequestTimeout

ARRIVAL_S: Final = 60.0
"""How long a request may be on its way."""

HEAD_BYTES: Final = 65_536
"""Of request line, headers and trailers, beyond what comes with the first or the last packet."""


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    400  what is not HTTP
    408  a request that is not complete in time
    431  headers without end
    All of them as problem details, and the connection ends.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._due: asyncio.TimerHandle | None = None  # of the request that is on its way
        self._arriving = False  # a request has begun and is not complete
        self._before: RequestResponseCycle | None = None  # what was answered when it began
        self._body_came = False  # in this packet
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        goes_on, self._body_came = self._arriving, False
        super().data_received(data)
        if not self._arriving or self.transport.is_closing():
            self._expect_nothing()
            return
        if goes_on and not self._body_came:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the head of the request is longer than {HEAD_BYTES} bytes"))
                return
        if self._due is None:
            self._expect(ARRIVAL_S)

    def on_message_begin(self) -> None:
        self._expect_nothing()
        self._arriving, self._before, self._head_bytes = True, self.cycle, 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._body_came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(BadHttp("this is not a request of HTTP/1.1"))

    def _expect(self, within_s: float) -> None:
        self._due = self.loop.call_later(within_s, self._give_up)

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._due = None
        if self.transport.is_closing():
            return
        in_head, last = self.cycle is self._before, self.cycle
        busy = in_head and last is not None and not last.response_complete  # with the request before this one
        if busy or self.flow.read_paused:
            self._expect(ARRIVAL_S)
        elif self._arriving and (in_head or last is None or not last.response_started):
            self._refuse(RequestTimeout(f"the request was not complete after {ARRIVAL_S:g} seconds"))
        else:
            self.transport.close()

    def _refuse(self, error: ServiceError) -> None:
        self._expect_nothing()
        body = json.dumps(problem(error, uuid.uuid4().hex)).encode()
        head = f"content-type: {PROBLEM_MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[error.status] + head.encode() + body)
        self.transport.close()
