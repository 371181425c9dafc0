"""A network through the real server: several HTTP workers in front of one engine, asked by clients that cost little.

Clients are processes of their own. First each keeps as many requests in flight as it has connections, which says what
the service can do; then requests begin at fixed times, at half of that rate, and latency counts from those times.
"""

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from service.engine.devices import CUDA

from ..cluster import Cluster, cluster
from ..lean_client import HttpPool, http_requests
from .errors import BenchError
from .findings import Finding
from .gpu_folder import Candidate, random_rows

RATE_GOAL: Final = 10_000.0
P99_GOAL_MS: Final = 5.0
_K: Final = 10
_BODIES: Final = 512
_HISTORY: Final = 20
_CONNECTIONS: Final = 64
_PROCESS_CORES: Final = 3  # of so many cores one is for a client, the others for HTTP workers and the engine


@dataclass(frozen=True)
class Load:
    """What one client process does: `rate` requests a second, None: as many as it can; for `seconds`."""

    address: str
    bodies: Sequence[dict[str, Any]]
    seconds: float
    rate: float | None


@dataclass(frozen=True)
class Seen:
    """Seconds from when a request should have begun to its answer, and requests that failed."""

    latencies: list[float]
    failed: int


def http_findings(network: Candidate, provider: str, beams: int, seconds: float) -> Iterator[Finding]:
    """Rate at saturation and p99 at half of it; raises BenchError where a request failed."""
    cores = os.cpu_count() or 1
    clients = max(1, cores // _PROCESS_CORES)
    settings = {
        "workers": max(1, cores - clients - 2), "provider": "cuda" if provider == CUDA else "cpu",
        "max_batch_rows": 512 if provider == CUDA else 64, "queue_limit": 65_536,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder, cluster(Path(folder), 1, settings) as started:
        started.store.publish(network.artifact)
        asyncio.run(_activate(started, network.artifact.manifest.model_version))
        address, bodies = started.replicas[0].address, _bodies(network, beams)
        _apply(address, bodies, clients, seconds / 2, None)  # caches, and shapes that were not warmed
        full = _apply(address, bodies, clients, seconds, None)
        rate = len(full.latencies) / seconds
        half = _apply(address, bodies, clients, seconds, rate / 2)
    detail = f"{clients} clients with {_CONNECTIONS} connections each, {settings['workers']} workers, p50 "
    yield Finding(
        "http",
        f"{network.name}, beam {beams}, through HTTP",
        rate,
        "/s",
        RATE_GOAL,
        detail=detail + f"{_ms(full, 0.5):.2f} ms",
    )
    yield Finding(
        "http", f"{network.name}, p99 through HTTP at half of that", _ms(half, 0.99), "ms", P99_GOAL_MS,
        at_most=True, detail=f"{len(half.latencies):,} requests, p50 {_ms(half, 0.5):.2f} ms",
    )  # fmt: skip


async def _activate(started: Cluster, version: str) -> None:
    async with started.client() as http:
        (await http.post(f"{started.replicas[0].address}/models/{version}/activate")).raise_for_status()
        await started.all_serve(http, version)


def _bodies(network: Candidate, beams: int) -> list[dict[str, Any]]:
    ids = network.artifact.item_ids
    rows = random_rows(network.artifact, _BODIES, _HISTORY, seed=2)
    return [{"history": [ids[item] for item in row.history.tolist()], "k": _K, "beam_width": beams} for row in rows]


def _apply(address: str, bodies: Sequence[dict[str, Any]], clients: int, seconds: float, rate: float | None) -> Seen:
    load = Load(address, bodies, seconds, None if rate is None else rate / clients)
    with multiprocessing.get_context("spawn").Pool(clients) as pool:
        seen = pool.map(_client, [load] * clients)
    failed = sum(part.failed for part in seen)
    if failed:
        raise BenchError(f"{failed} requests were not answered with recommendations")
    return Seen([latency for part in seen for latency in part.latencies], failed)


def _client(load: Load) -> Seen:
    return asyncio.run(_ask(load))


async def _ask(load: Load) -> Seen:
    parts = urlsplit(load.address)
    assert parts.hostname
    assert parts.port
    requests = http_requests(parts.netloc, load.bodies)
    pool = await HttpPool.open(parts.hostname, parts.port, requests, _CONNECTIONS)
    client = _Client(pool, time.perf_counter() + load.seconds)
    try:
        if load.rate is None:
            await client.keep_busy(_CONNECTIONS)
        else:
            await client.at_rate(load.rate, np.random.default_rng(os.getpid()))
    finally:
        pool.close()
    return Seen(client.latencies, client.failed)


class _Client:
    """Asks until `ending`, and waits for what is on its way then."""

    def __init__(self, pool: HttpPool, ending: float) -> None:
        self._pool, self._ending = pool, ending
        self._asked = self._open = 0
        self._quiet = asyncio.Event()
        self.latencies: list[float] = []
        self.failed = 0

    async def keep_busy(self, in_flight: int) -> None:
        for _ in range(in_flight):
            self._begin(time.perf_counter(), again=True)
        await self._quiet.wait()

    async def at_rate(self, rate: float, rng: np.random.Generator) -> None:
        """Poisson arrivals; what a timer wakes too late for counts from when it should have begun."""
        due = time.perf_counter()
        while due < self._ending:
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            self._begin(due, again=False)
            due += rng.exponential(1 / rate)
        if self._open:
            await self._quiet.wait()

    def _begin(self, due: float, *, again: bool) -> None:
        def done(good: bool) -> None:
            self._open -= 1
            self.latencies.append(time.perf_counter() - due)
            self.failed += not good
            if again and time.perf_counter() < self._ending:
                self._begin(time.perf_counter(), again=True)
            if not self._open:
                self._quiet.set()

        self._asked += 1
        self._open += 1
        self._quiet.clear()
        self._pool.ask(self._asked + os.getpid(), done)


def _ms(seen: Seen, quantile: float) -> float:
    return 1e3 * float(np.quantile(seen.latencies, quantile))
