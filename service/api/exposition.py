"""The text of `/metrics`: what all processes of the replica counted, and what the supervisor knows."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.metric_files import reading

from .control import Status
from .engine_client import Router

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def render(router: Router) -> bytes:
    """Reads the counters of every process from their files: not for an event loop."""
    known = CollectorRegistry()
    known.register(_Known(router))
    return _counted() + generate_latest(known)


def _counted() -> bytes:
    if _FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    with reading(Path(os.environ[_FOLDER])):
        return generate_latest(registry)


class _Known(Collector):
    """What reached this worker over the control socket."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def collect(self) -> Iterator[Metric]:
        yield self._model_info()
        yield self._golden_overlap()
        yield from _supervised(self._router.status)

    def _model_info(self) -> Metric:
        labels = ["model_version", "provider", "precision", "service_version"]
        family = GaugeMetricFamily("prorec_model_info", "1 for the model that serves", labels=labels)
        if info := self._router.info:
            family.add_metric([info.model_version, info.provider, info.precision, version("prorec-serve")], 1)
        return family

    def _golden_overlap(self) -> Metric:
        """Of every engine that is ready, so that a canary's is seen before it takes over."""
        family = GaugeMetricFamily(
            "prorec_golden_overlap_ratio",
            "Share of the items recorded at export that an engine found for the golden requests when it was loaded",
            labels=["model_version", "precision"],
        )
        for route in self._router.engines:
            family.add_metric([route.info.model_version, route.info.precision], route.info.golden_overlap)
        return family


def _supervised(status: Status) -> Iterator[Metric]:
    swaps = CounterMetricFamily("prorec_model_swap", "Attempts to serve another model", labels=["result"])
    for result in ("success", "failure", "rolled_back"):
        swaps.add_metric([result], status.swaps.get(result, 0))
    yield swaps
    yield CounterMetricFamily("prorec_engine_restarts", "Engines started after one died", value=status.engine_restarts)
    yield GaugeMetricFamily(
        "prorec_redis_up", "1 while Redis answers the supervisor", value=status.redis in ("ok", "lost")
    )
    yield GaugeMetricFamily(
        "prorec_redis_writable",
        "1 while Redis answers and takes changes",
        value=status.redis in ("ok", "lost") and status.redis_refusal is None,
    )
    yield GaugeMetricFamily(
        "prorec_catalog_revision",
        "Catalog revision that every engine but a shadow's has applied",
        value=status.catalog_revision,
    )
    yield GaugeMetricFamily("prorec_catalog_unplaced", "Added items without a place", value=status.unplaced_count)
    yield GaugeMetricFamily(
        "prorec_catalog_staleness_seconds",
        "For how long what is served may have been behind Redis",
        value=status.staleness_s,
    )
