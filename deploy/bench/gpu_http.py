"""A network through the real server: several HTTP workers in front of one engine, asked by clients that cost little.

Clients are processes of their own that begin at one moment, when all of them are connected. First each keeps as many
requests in flight as it has connections, which says what the service can do: how many answers came until a moment that
is also common. Then requests begin at fixed times, at half of that rate, and latency counts from those times.
"""

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from service.engine.devices import CUDA

from ..cluster import cluster
from ..errors import BenchError
from ..lean_client import Done, HttpPool, http_requests
from ..lean_load import Answers, arrive, keep_busy
from ..load.arrivals import Segment, arrivals
from .findings import Finding
from .gpu_folder import Candidate, random_rows

RATE_GOAL: Final = 10_000.0
P99_GOAL_MS: Final = 5.0
_K: Final = 10
_BODIES: Final = 512
_HISTORY: Final = 20
CONNECTIONS: Final = 64
_LEAD_S: Final = 0.2  # until every client has heard when to begin
_PROCESS_CORES: Final = 3  # of so many cores one is for a client, the others for HTTP workers and the engine


@dataclass(frozen=True)
class Load:
    """What one client process does: `rate` requests a second, None: as many as it can; for `seconds`."""

    address: str
    bodies: Sequence[dict[str, Any]]
    seconds: float
    rate: float | None


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
        asyncio.run(started.activate(network.artifact.manifest.model_version))
        address, bodies = started.replicas[0].address, _bodies(network, beams)
        apply(address, bodies, clients, seconds / 2, None)  # caches, and shapes that were not warmed
        full = apply(address, bodies, clients, seconds, None)
        rate = full.in_time / seconds
        half = apply(address, bodies, clients, seconds, rate / 2)
    detail = f"{clients} clients with {CONNECTIONS} connections each, {settings['workers']} workers, p50 "
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


def _bodies(network: Candidate, beams: int) -> list[dict[str, Any]]:
    ids = network.artifact.item_ids
    rows = random_rows(network.artifact, _BODIES, _HISTORY, seed=2)
    return [{"history": [ids[item] for item in row.history.tolist()], "k": _K, "beam_width": beams} for row in rows]


def apply(address: str, bodies: Sequence[dict[str, Any]], clients: int, seconds: float, rate: float | None) -> Answers:
    """What all clients saw of as many requests as they can, or of `rate` a second; raises BenchError."""
    load = Load(address, bodies, seconds, None if rate is None else rate / clients)
    spawn = multiprocessing.get_context("spawn")
    ends = [spawn.Pipe() for _ in range(clients)]
    processes = [spawn.Process(target=_client, args=(theirs, load), daemon=True) for _, theirs in ends]
    for process, (_, theirs) in zip(processes, ends, strict=True):
        process.start()
        theirs.close()  # so that this end hears when the process ends
    try:
        seen = _together([ours for ours, _ in ends])
    finally:
        for process in processes:
            process.kill()
            process.join()
    return Answers([latency for part in seen for latency in part.latencies], sum(part.in_time for part in seen))


def _together(pipes: "Sequence[Connection[Any, Any]]") -> list[Answers]:
    """Tells the clients when to begin as soon as all are connected."""
    try:
        for pipe in pipes:
            pipe.recv()
        begins = time.monotonic() + _LEAD_S
        for pipe in pipes:
            pipe.send(begins)
        seen = [pipe.recv() for pipe in pipes]
    except (EOFError, OSError):
        raise BenchError("a client process ended unexpectedly") from None
    for part in seen:
        if isinstance(part, BenchError):
            raise part
    return seen


def _client(pipe: "Connection[Any, Any]", load: Load) -> None:
    try:
        pipe.send(asyncio.run(_ask(pipe, load)))
    except BenchError as error:
        pipe.send(error)


async def _ask(pipe: "Connection[Any, Any]", load: Load) -> Answers:
    parts = urlsplit(load.address)
    assert parts.hostname
    assert parts.port
    requests = http_requests(parts.netloc, load.bodies)
    pool = await HttpPool.open(parts.hostname, parts.port, requests, CONNECTIONS)

    def ask(number: int, done: Done) -> None:
        pool.ask(number + os.getpid(), done)  # not all clients the same at the same time

    pipe.send(None)  # it is connected
    begins: float = await asyncio.to_thread(pipe.recv)
    try:
        await asyncio.sleep(begins - time.monotonic())
        if load.rate is None:
            return await keep_busy(ask, CONNECTIONS, until=begins + load.seconds)
        moments = arrivals(np.random.default_rng(os.getpid()), [Segment(load.rate, load.seconds)])
        return Answers(await arrive(ask, (moment for moment, _ in moments), begins))
    finally:
        pool.close()


def _ms(seen: Answers, quantile: float) -> float:
    return 1e3 * float(np.quantile(seen.latencies, quantile))
