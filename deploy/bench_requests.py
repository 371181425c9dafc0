"""What a request costs outside the graph, measured in one run on this machine.

    python -m deploy.bench_requests artifacts/movielens-100k-1

One replica with one engine, asked over HTTP and, for comparison, directly on the engine's socket. By default it has one
worker, its engine one thread, and the client shares all cores with them; on a machine with eight cores or more

    python -m deploy.bench_requests DIR --workers 4 --client-cores 0,1 --engine-cores 2,3

gives everybody cores of their own. The histories are the artifact's golden ones, requests are bytes made beforehand.

one at a time   p50 over HTTP and of the engine in turn, and processor time a request of each process
saturation      answers a second at a fixed number in flight, over HTTP and of the engine alone, in turn; percentiles
                over HTTP; and processor time a request, from which `ratio_with_own_cores` says what worker and engine
                could do with a core for each process
open loop       Poisson arrivals at 70 % of that saturation; latency counts from the intended start, which the client's
                timers miss by up to a millisecond

Prints one JSON object, and beside it, on stderr, what was wanted. The first request that is not answered by a
recommendation ends it with a sentence and exit code 1; a rate counts what came before the end of its block.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np
import typer
import uvloop

from models.artifact import Artifact
from service.cores import confine, parse

from .bench.findings import Finding
from .cluster import cluster, golden_bodies
from .commands import run
from .lean_client import Ask, EngineConnection, HttpPool, engine_queries, http_requests
from .lean_load import Answers, arrive, keep_busy
from .process_costs import Processes, Spent, find

_CONNECTIONS: Final = 256
_WARM_REQUESTS: Final = 500
_PART_OF_SATURATION: Final = 0.7
_RUN: Final = 'prorec_stage_duration_seconds_sum{stage="run"}'

T = TypeVar("T")


def bench_requests(
    artifact: Annotated[Path, typer.Argument(metavar="DIR", help="Artifact that serves.")],
    rounds: Annotated[int, typer.Option(min=1, help="Blocks of each kind, in turn.")] = 3,
    requests: Annotated[int, typer.Option(min=100, help="In each block of one at a time.")] = 1000,
    seconds: Annotated[float, typer.Option(min=1, help="Each block of saturation; open loop takes five.")] = 3.0,
    in_flight: Annotated[int, typer.Option(min=1, max=_CONNECTIONS, help="At saturation.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="HTTP processes of the replica.")] = 1,
    engine_cores: Annotated[str | None, typer.Option(help="PROREC_ENGINE_CORES of the replica.")] = None,
    client_cores: Annotated[str | None, typer.Option(help="Cores such as 0,1 that the client alone has.")] = None,
) -> None:
    """Prints one JSON object."""
    opened = Artifact.open(artifact)
    alone = _cores(client_cores)
    with tempfile.TemporaryDirectory(prefix="requests-") as folder:
        settings: dict[str, Any] = {"engine_threads": threads, "workers": workers}
        settings |= {"engine_cores": engine_cores} if engine_cores else {}
        if alone:
            confine(os.sched_getaffinity(0) - alone)  # which the replica inherits
        with cluster(Path(folder), 1, settings) as started:
            if alone:
                confine(alone)
            started.store.publish(opened)
            replica = started.replicas[0]
            version = opened.manifest.model_version
            bodies = golden_bodies(opened)
            _on_loop(started.activate(version))
            bench = Bench(replica.process.pid, replica.address, bodies)
            report = bench.report(rounds, requests, seconds, in_flight)
    wanted = findings(report, own_cores=bool(alone))
    print("\n".join(finding.line() for finding in wanted), file=sys.stderr)
    of_what = {"artifact": version, "items": opened.manifest.item_count, "workers": workers, "threads": threads}
    print(json.dumps(of_what | report | {"goals": [finding.as_row() for finding in wanted]}, indent=2))


def _cores(listed: str | None) -> set[int]:
    if listed is None:
        return set()
    try:
        cores = parse(listed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--client-cores") from None
    if not cores < os.sched_getaffinity(0):
        raise typer.BadParameter("must leave cores to the replica, among those there are", param_hint="--client-cores")
    return cores


def findings(report: dict[str, Any], *, own_cores: bool) -> list[Finding]:
    """What was wanted of a report of `Bench`; of HTTP ÷ engine only where client and workers have their own cores."""
    single, full, open_loop = report["one_at_a_time"], report["saturation"], report["open_loop"]
    cpu, rates = full["cpu_ms"], f"{full['http_per_s']:,} / {full['engine_per_s']:,} a second"
    beside = f"{single['http_p50_ms']} / {single['engine_p50_ms']} ms"
    tail = f"{open_loop['p50_ms']} / {open_loop['p99_ms']} ms at {open_loop['rate_per_s']:,} a second"
    return [
        Finding("requests", "processor time a request, HTTP workers", cpu["worker"], "ms", 0.5, at_most=True),
        Finding("requests", "… engine outside run", cpu["engine_outside_run"], "ms", 0.15, at_most=True),
        Finding(
            "requests", "HTTP / engine at saturation", full["ratio"], "", 0.85 if own_cores else None, detail=rates
        ),
        Finding("requests", "HTTP p50 - engine p50, one at a time", single["difference_ms"], "ms", 1.5, True, beside),
        Finding("requests", "p99 / p50 at 70 % of saturation", open_loop["p99_to_p50"], "x", 4.0, True, tail),
    ]


class Bench:
    """One replica, and what was asked of it."""

    def __init__(self, supervisor_pid: int, address: str, bodies: list[dict[str, Any]]) -> None:
        parts = urlsplit(address)
        assert parts.hostname
        assert parts.port
        self._host, self._port, self._address = parts.hostname, parts.port, address
        self._requests = http_requests(parts.netloc, bodies)
        self._queries = engine_queries(bodies)
        self._processes: Processes = find(supervisor_pid, self._port)
        self._workers = len(self._processes.workers)

    def report(self, rounds: int, requests: int, seconds: float, in_flight: int) -> dict[str, Any]:
        _on_loop(self._over_http(lambda ask: keep_busy(ask, 1, count=_WARM_REQUESTS)))
        single = _on_loop(self._one_at_a_time(rounds, requests))
        full = _on_loop(self._saturated(rounds, seconds, in_flight))
        rate = _PART_OF_SATURATION * full["http_per_s"]
        open_loop = _on_loop(self._over_http(lambda ask: self._arrivals(ask, rate, 5 * seconds)))
        return {"one_at_a_time": single, "saturation": full, "open_loop": open_loop}

    async def _one_at_a_time(self, rounds: int, requests: int) -> dict[str, Any]:
        http: list[float] = []
        engine: list[float] = []
        costs: list[dict[str, float]] = []
        for _ in range(rounds):
            engine += (await self._directly(lambda ask: keep_busy(ask, 1, count=requests))).latencies
            answers, cost = await self._costing(lambda ask: keep_busy(ask, 1, count=requests))
            http += answers.latencies
            costs.append(cost)
        over, within = _ms(statistics.median(http)), _ms(statistics.median(engine))
        return {
            "http_p50_ms": over,
            "engine_p50_ms": within,
            "difference_ms": round(over - within, 3),
            "cpu_ms": _medians(costs),
        }

    async def _saturated(self, rounds: int, seconds: float, in_flight: int) -> dict[str, Any]:
        all_latencies: list[float] = []
        http: list[float] = []
        engine: list[float] = []
        costs: list[dict[str, float]] = []

        def load(ask: Ask) -> Coroutine[Any, Any, Answers]:
            return keep_busy(ask, in_flight, until=time.monotonic() + seconds)

        for _ in range(rounds):
            engine.append((await self._directly(load)).in_time / seconds)
            answers, cost = await self._costing(load)
            http.append(answers.in_time / seconds)
            all_latencies += answers.latencies
            costs.append(cost)
        cpu = _medians(costs)
        return {
            "in_flight": in_flight,
            **_percentiles(all_latencies),
            "http_per_s": round(statistics.median(http), 1),
            "engine_per_s": round(statistics.median(engine), 1),
            "ratio": round(statistics.median(a / b for a, b in zip(http, engine, strict=True)), 3),
            "cpu_ms": cpu,
            "ratio_with_own_cores": round(min(1.0, 1e3 * self._workers / cpu["worker"] / statistics.median(engine)), 3),
        }

    async def _arrivals(self, ask: Ask, rate: float, seconds: float) -> dict[str, Any]:
        moments = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
        found = _percentiles(await arrive(ask, moments.tolist(), time.monotonic()))
        return {"rate_per_s": round(rate, 1), **found, "p99_to_p50": round(found["p99_ms"] / found["p50_ms"], 2)}

    async def _costing(self, load: Callable[[Ask], Coroutine[Any, Any, Answers]]) -> tuple[Answers, dict[str, float]]:
        """Answers, and milliseconds of processor time a request, of a load over HTTP."""

        async def measured(ask: Ask) -> tuple[Answers, Spent]:
            before = self._processes.spent()
            return await load(ask), self._processes.spent() - before

        before = await self._run_s()
        answers, spent = await self._over_http(measured)
        run_s = await self._run_s() - before
        searching = max(0.0, spent.engine - spent.engine_loop - run_s)  # the run's clock also runs while it waits
        of_all = asdict(spent) | {"run": run_s, "engine_outside_run": spent.engine_loop + searching}
        return answers, {name: 1e3 * seconds / len(answers.latencies) for name, seconds in of_all.items()}

    async def _over_http(self, load: Callable[[Ask], Coroutine[Any, Any, T]]) -> T:
        pool = await HttpPool.open(self._host, self._port, self._requests, _CONNECTIONS)
        try:
            return await load(pool.ask)
        finally:
            pool.close()

    async def _directly(self, load: Callable[[Ask], Coroutine[Any, Any, T]]) -> T:
        connection = await EngineConnection.open(self._processes.engine_socket, self._queries)
        try:
            return await load(connection.ask)
        finally:
            connection.close()

    async def _run_s(self) -> float:
        """Seconds inside the graph, as the engine counts them."""
        async with httpx.AsyncClient() as client:
            lines = (await client.get(f"{self._address}/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(_RUN))


def _on_loop(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _medians(costs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(cost[name] for cost in costs), 3) for name in costs[0]}


def _percentiles(latencies: list[float]) -> dict[str, float]:
    return {f"p{percent}_ms": _ms(float(np.percentile(latencies, percent))) for percent in (50, 95, 99)}


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


if __name__ == "__main__":
    run(bench_requests)
