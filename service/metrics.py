"""Every metric a replica counts, in base units.

The supervisor sets PROMETHEUS_MULTIPROC_DIR for its children, so each worker's `/metrics` shows the whole replica.
What only the supervisor knows (swaps, restarts, staleness) reaches workers over the control socket: `api.exposition`.
"""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# ---- HTTP workers

REQUESTS = Counter("prorec_requests_total", "Recommendation requests answered, by HTTP status", ["status"])
REQUEST_DURATION = Histogram(
    "prorec_request_duration_seconds", "From a recommendation request's headers to its answer", buckets=_LATENCY_S
)
ANSWERS = Counter(
    "prorec_answers_total",
    "Recommendation requests by the version they went to: complete, exhausted (fewer than k items), refused or error",
    ["model_version", "result"],
)
BROKEN_REQUESTS = Counter(
    "prorec_broken_requests_total", "Connections ended for what is not HTTP, too slow or too long, by code", ["code"]
)
IN_FLIGHT = Gauge("prorec_requests_in_flight", "Recommendation requests being worked on", multiprocess_mode="livesum")
EVENT_LOOP_LAG = Histogram(
    "prorec_event_loop_lag_seconds",
    "How late a worker's event loop wakes a task that slept",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
ENGINE_LOSSES = Counter(
    "prorec_engine_losses_total", "Queries whose engine ended while they were in flight, by attempt", ["attempt"]
)

# ---- engines

BATCH_ROWS = Histogram(
    "prorec_batch_rows", "Rows of each batch an engine ran", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
QUEUE_DEPTH = Gauge("prorec_queue_depth", "Queries waiting for a batch, over all engines", multiprocess_mode="livesum")
STAGE_DURATION = Histogram(
    "prorec_stage_duration_seconds",
    "Where a query's time in the engine goes: queue (each query), batch and run (each batch)",
    ["stage"],
    buckets=(0.00025, 0.0005, *_LATENCY_S),
)


@cache
def stage_duration(stage: str) -> Histogram:
    """That of one stage; finding it by its label takes as long as observing."""
    return STAGE_DURATION.labels(stage)


EXHAUSTED = Counter("prorec_exhausted_total", "Answers with fewer than k items, because no more are legal")
INVALID_CODES = Counter(
    "prorec_invalid_codes_total", "Searches that returned an item twice, an excluded one, or too few; always a defect"
)
FILTER_SLOTS = Gauge(
    "prorec_filter_slots", "Filters that engines hold compiled, over all engines", multiprocess_mode="livesum"
)
FILTER_QUEUE_DEPTH = Gauge(
    "prorec_filter_queue_depth",
    "Queries waiting for their filter to be compiled, over all engines",
    multiprocess_mode="livesum",
)
_CHANGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FILTER_COMPILE = Histogram("prorec_filter_compile_seconds", "From a filter to its slot", buckets=_CHANGE_S)
CATALOG_APPLY = Histogram(
    "prorec_catalog_apply_seconds", "From a change of the catalog to when every search obeys it", buckets=_CHANGE_S
)
REJECTED = Counter("prorec_rejected_total", "Queries an engine did not answer, by the code of the failure", ["reason"])

# ---- shadows

SHADOW_REQUESTS = Counter(
    "prorec_shadow_requests_total",
    "Answers offered to a shadow: compared, dropped because something had work, failed",
    ["result"],
)
SHADOW_OVERLAP = Histogram(
    "prorec_shadow_overlap_ratio",
    "Share of the served items that the shadow returned too",
    buckets=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
