"""HTTP/1.1 as uvicorn reads it, from clients that may be slow, broken or hostile.

uvicorn waits for the rest of a request for ever and keeps all that its head says, so a few thousand connections that
send a byte now and then, or one that never ends its headers, would take a worker with them. A request that arrives
whole, as nearly all do, costs a few flags here and no timer.
"""

import asyncio
import json
import logging
from collections import deque
from typing import Any, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service import metrics
from service.errors import PROBLEM_MEDIA_TYPE, ServiceError, problem

from .edge import request_id
from .problems import BadHttp, HeadTooLarge, RequestTimeout

ARRIVAL_S: Final = 60.0
"""How long a request may be on its way, and an answer that the client does not read."""

HEAD_BYTES: Final = 65_536
"""Of request line, headers and trailers, in packets that hold nothing else."""

logger = logging.getLogger(__name__)


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    400  what is not HTTP
    408  a request that is not complete in time
    431  headers without end
    All of them as problem details, after the answers that are due; then the connection ends.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._due: asyncio.TimerHandle | None = None  # of the request that is on its way, or of the first one
        self._read_by: asyncio.TimerHandle | None = None  # of an answer that does not leave
        self._refusal: ServiceError | None = None  # to be said when the requests before have been answered
        self._arriving = False  # a request has begun and is not complete
        self._before: RequestResponseCycle | None = None  # the last one when it began
        self._progress = False  # this packet has more than a part of one head
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._expect(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        goes_on, self._progress = self._arriving, False
        self._parse(data)
        if self.transport.is_closing():
            return
        if not self._arriving:
            self._expect_nothing()
            if self.cycle is None or self.cycle.response_complete:  # nothing is due, and no other timer runs
                self._expect(self.timeout_keep_alive)
            return
        if goes_on and not self._progress:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the head of the request is longer than {HEAD_BYTES} bytes"))
                return
        if self._due is None and self._refusal is None:
            self._expect(ARRIVAL_S)

    def _parse(self, data: bytes) -> None:
        """As uvicorn does, which would log a line of its own for what is refused or ignored here."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # to what is not spoken here
        except httptools.HttpParserError:
            self._refuse(BadHttp("this is not a request of HTTP/1.1"))

    def on_message_begin(self) -> None:
        self._expect_nothing()
        self._arriving, self._progress, self._before, self._head_bytes = True, True, self.cycle, 0
        super().on_message_begin()

    def on_chunk_header(self) -> None:
        self._progress = True

    def on_chunk_complete(self) -> None:
        self._progress = True

    def on_body(self, body: bytes) -> None:
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal is not None and not self._unanswered() and not self.transport.is_closing():
            self._say(self._refusal)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_waiting_for_reader()
        self._read_by = self.loop.call_later(ARRIVAL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting_for_reader()

    def _stop_waiting_for_reader(self) -> None:
        if self._read_by is not None:
            self._read_by.cancel()
            self._read_by = None

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
        if self.flow.read_paused:  # it may have been sent, and not been read
            self._expect(ARRIVAL_S)
        elif self._arriving:
            self._refuse(RequestTimeout(f"the request was not complete after {ARRIVAL_S:g} seconds"))
        else:
            self.transport.close()

    def _answered_early(self) -> bool:
        """Whether the request that is on its way has its answer, or a part of it, already."""
        return self._arriving and self.cycle is not self._before and self.cycle.response_started

    def _unanswered(self) -> bool:
        """Whether requests before the one that is on its way wait for their answers."""
        return self._before is not None and not self._before.response_complete

    def _refuse(self, error: ServiceError) -> None:
        self._expect_nothing()
        if self._answered_early():
            self.transport.close()
        elif not self._unanswered():
            self._say(error)
        else:
            self._refusal = error
            if self._arriving and self.cycle is not self._before:  # its head is complete, and it waits for its turn
                self.pipeline.popleft()
                self.cycle = self._before  # type: ignore[assignment]

    def _say(self, error: ServiceError) -> None:
        given = next((value for name, value in self.headers or () if name == b"x-request-id"), b"").decode("latin-1")
        number = request_id(given if self._arriving else None)
        metrics.BROKEN_REQUESTS.labels(error.code).inc()
        logger.info("request %s refused: %s", number, error)
        body = json.dumps(problem(error, number)).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", number.encode("latin-1")),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + body)
        self.transport.close()


class Flow(FlowControl):
    """Reads no further while whole requests wait for their turn: they would pile up as fast as they come."""

    def __init__(
        self, transport: asyncio.Transport, pipeline: deque[tuple[RequestResponseCycle, ASGI3Application]]
    ) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()
