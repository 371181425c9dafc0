"""Traces: whose request this is reaches the log, and a collector where there is one."""

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.api.app import create_app
from service.api.engine_client import Router
from service.api.tracing import OnlyIds, Spans, start_tracing, trace_id
from service.log_format import log_handler

from .client import client_of, settings
from .little_engine import engine, failing, routes

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize("header", [TRACEPARENT, TRACEPARENT[:-2] + "00", f"01-{TRACE}-{PARENT}-01-later"])
def test_a_trace_is_known_by_its_header(header: str) -> None:
    assert trace_id(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        TRACE,
        TRACEPARENT.upper(),
        TRACEPARENT + "-more",
        TRACEPARENT + " ",
        "ff" + TRACEPARENT[2:],
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}x-{PARENT}-01",
    ],
)
def test_a_header_that_is_none_is_ignored(header: str) -> None:
    assert trace_id(header) is None


@contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """What the application logs within the block."""
    stream, found = io.StringIO(), list[dict[str, Any]]()
    handler, root = log_handler(settings(log_format="json"), "worker", stream), logging.getLogger("service")
    root.addHandler(handler)
    try:
        yield found
    finally:
        root.removeHandler(handler)
        found += [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_what_a_request_logs_has_its_ids(router: Router, folder: Path) -> None:
    headers = {"traceparent": TRACEPARENT, "X-Request-Id": "r-1"}
    with logged() as lines:
        async with engine(folder, failing("engine_failed")) as little, client_of(router) as client:
            await router.switch(routes(little))
            await client.post("/recommend", json={"history": []}, headers=headers)
    assert lines
    assert {(line["request_id"], line["trace_id"]) for line in lines} == {("r-1", TRACE)}
    (access,) = (line for line in lines if "path" in line)
    assert (access["method"], access["path"], access["status"], access["level"]) == (
        "POST", "/recommend", 500, "WARNING",
    )  # fmt: skip
    assert access["duration_ms"] > 0


async def test_requests_that_go_well_are_not_logged(router: Router, folder: Path) -> None:
    with logged() as lines:
        async with engine(folder) as little, client_of(router) as client:
            await client.get("/health/ready")  # 503, asked every few seconds by probes
            await router.switch(routes(little))
            await client.post("/recommend", json={"history": []})
            await client.post("/recommend", json={})
    assert not lines


class Collector(ThreadingHTTPServer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in span.attributes}


async def test_a_collector_gets_a_span_with_the_stages_of_the_request(
    router: Router, folder: Path, collector: Collector
) -> None:
    tracing = start_tracing()
    assert isinstance(tracing, Spans)
    transport = httpx.ASGITransport(create_app(settings(), router, tracing))
    async with (
        engine(folder) as little,
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        await router.switch(routes(little))
        headers = {"traceparent": TRACEPARENT, "X-Request-Id": "r-1"}
        await client.post("/recommend", json={"history": ["a"], "k": 2}, headers=headers)
        little.behaviour = failing("engine_failed")
        await client.post("/recommend", json={"history": []})
        await client.get("/items/a%2Fb")
    tracing.close()
    good, bad, item = collector.spans
    assert (good.name, good.trace_id.hex(), good.parent_span_id.hex()) == ("POST /recommend", TRACE, PARENT)
    assert good.kind == Span.SPAN_KIND_SERVER
    found = attributes(good)
    assert (found["http.request.method"], found["http.route"], found["http.response.status_code"]) == (
        "POST", "/recommend", 200,
    )  # fmt: skip
    assert (found["prorec.request_id"], found["prorec.model_version"], found["prorec.items"]) == ("r-1", "v1", 2)
    assert {"prorec.queue_s", "prorec.batch_s", "prorec.run_s", "prorec.batch_rows"} <= found.keys()
    assert (bad.status.code, attributes(bad)["http.response.status_code"]) == (Status.STATUS_CODE_ERROR, 500)
    assert not bad.parent_span_id
    assert item.name == "GET /items/{item_id:path}"
    (resource,) = {
        one.value.string_value
        for request in collector.requests
        for spans in request.resource_spans
        for one in spans.resource.attributes
        if one.key == "service.name"
    }
    assert resource == "prorec-serve"


def test_without_an_exporter_only_ids_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert isinstance(start_tracing(), OnlyIds)


def test_the_console_is_an_exporter_too() -> None:
    program = (
        "from service.api.tracing import start_tracing\n"
        "tracing = start_tracing()\n"
        "with tracing.request({}) as trace: trace.finish('GET /', {'http.response.status_code': 200})\n"
        "tracing.close()\n"
    )
    done = run(program, OTEL_TRACES_EXPORTER="console")
    assert '"name": "GET /"' in done.stdout


def test_without_the_extra_a_line_says_how_to_get_it() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"  # as where it is not installed: its import fails
        "import logging; logging.basicConfig()\n"
        "from service.api.tracing import start_tracing\n"
        "print(type(start_tracing()).__name__)\n"
    )
    done = run(program, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert done.stdout == "OnlyIds\n"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is missing" in done.stderr
    assert not run(program).stderr


def run(program: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
