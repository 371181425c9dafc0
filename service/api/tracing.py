"""The trace a request belongs to: read from `traceparent` (W3C), and with OpenTelemetry told to a collector.

Without the extra `otel`, or without an exporter in the environment, its id reaches the log and nothing else happens.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

SERVICE_NAME: Final = "prorec-serve"
_CONSOLE: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TRACEPARENT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

logger = logging.getLogger(__name__)


class Trace(Protocol):
    """One request's place in a trace."""

    trace_id: str | None  # 32 hex digits; None: the request belongs to no trace

    def finish(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Says what the request was; the attribute `http.response.status_code` tells whether it failed."""


class Tracing(Protocol):
    """Where traces go."""

    def request(self, headers: Mapping[str, str]) -> AbstractContextManager[Trace]:
        """The block is one request, with these headers (names in lower case)."""

    def close(self) -> None:
        """Sends what was not sent yet."""


def start_tracing() -> Tracing:
    """Spans if the environment names an exporter and OpenTelemetry is installed; else only ids."""
    wanted = _wanted(os.environ)
    if wanted is None:
        return OnlyIds()
    try:
        return Spans(_provider())
    except ImportError:
        logger.warning("%s is set, but OpenTelemetry is missing: python -m pip install 'prorec-serve[otel]'", wanted)
        return OnlyIds()


def trace_id(traceparent: str) -> str | None:
    """None for what the W3C recommendation calls invalid; a later version than 00 may have more fields."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == "00" and match[3]):
        return None
    return match[2]


class Followed:
    """A trace that others record."""

    def __init__(self, trace_id: str | None) -> None:
        self.trace_id = trace_id

    def finish(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Nobody asked."""


class OnlyIds:
    """No spans."""

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Trace]:
        yield Followed(trace_id(headers.get("traceparent", "")))

    def close(self) -> None:
        """Nothing was kept."""


class Recorded:
    """A span of this request."""

    def __init__(self, span: "Span") -> None:
        self._span = span
        self.trace_id: str | None = f"{span.get_span_context().trace_id:032x}"

    def finish(self, name: str, attributes: Mapping[str, Any]) -> None:
        from opentelemetry.trace import StatusCode

        self._span.update_name(name)
        self._span.set_attributes(dict(attributes))
        if attributes["http.response.status_code"] >= 500:
            self._span.set_status(StatusCode.ERROR)


class Spans:
    """One span a request, by the OpenTelemetry SDK."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE_NAME)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Trace]:
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract(headers)
        with self._tracer.start_as_current_span("request", parent, SpanKind.SERVER) as span:
            yield Recorded(span)

    def close(self) -> None:
        self._provider.shutdown()


def _wanted(environment: Mapping[str, str]) -> str | None:
    """The variable that asks for spans."""
    exporter = environment.get(_CONSOLE, "")
    if exporter == "console":
        return f"{_CONSOLE}=console"
    if exporter == "none":
        return None
    return next((name for name in _ENDPOINTS if environment.get(name)), None)


def _provider() -> "TracerProvider":
    """Raises ImportError without the extra `otel`."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": SERVICE_NAME}))
    console = os.environ.get(_CONSOLE) == "console"
    provider.add_span_processor(
        SimpleSpanProcessor(ConsoleSpanExporter()) if console else BatchSpanProcessor(OTLPSpanExporter())
    )
    return provider
