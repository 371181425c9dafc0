"""Swapping versions under load on several replicas, measured in one run.

    python -m deploy.bench_swaps artifacts/movielens-100k-1 artifacts/movielens-100k-2

Starts replicas on one Redis, finds the rate at which they saturate, and loads them with half of it, open loop (Poisson
arrivals, latency from the intended start), first steadily, then while an operator swaps the two versions, then steadily
again. Every answer must be the one its version gives. First with the previous version kept warm, then without.
Prints one JSON object; the exit code says whether nothing failed and nothing was mixed.
"""

import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from models.artifact import Artifact

from .cluster import Cluster, cluster, golden_bodies
from .commands import run
from .load import Load, Phase

_HISTORIES: Final = 100
_LAG_LIMIT_S: Final = "0.01"
_PROBES: Final = 20
_TENTH: Final = 10
_SETTLE_S: Final = 5.0


def bench_swaps(
    first: Annotated[Path, typer.Argument(metavar="DIR", help="One artifact.")],
    second: Annotated[Path, typer.Argument(metavar="DIR", help="Another artifact, over the same item ids.")],
    swaps: Annotated[int, typer.Option(min=11, help="In each of the two modes.")] = 100,
    replicas: Annotated[int, typer.Option(min=1)] = 3,
    steady_s: Annotated[float, typer.Option(min=1, help="Of steady load before, and again after the swaps.")] = 30.0,
    pause_s: Annotated[float, typer.Option(help="Between a swap that every replica has made and the next.")] = 0.5,
    rate: Annotated[float, typer.Option(help="Requests a second; 0: half of saturation.")] = 0.0,
    warm: Annotated[str, typer.Option(help="Earlier versions kept warm, for each mode.")] = "1,0",
) -> None:
    """Runs the modes one after the other and prints one JSON object."""
    report: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "replicas": replicas}
    artifacts = [Artifact.open(first), Artifact.open(second)]
    modes = {f"{count} earlier versions kept warm": int(count) for count in warm.split(",")}
    for mode, count in modes.items():
        print(f"{mode} …", file=sys.stderr, flush=True)
        report[mode] = _mode(artifacts, swaps, replicas, steady_s, pause_s, rate, count)
    print(json.dumps(report, indent=2))
    phases = [report[mode][phase] for mode in modes for phase in ("steady", "swapping")]
    sys.exit(any(phase["failed"] or phase["mixed"] for phase in phases))


def _mode(
    artifacts: list[Artifact], swaps: int, replicas: int, steady_s: float, pause_s: float, rate: float, warm: int
) -> dict[str, Any]:
    settings = {"warm_previous": warm, "warm_memory_percent": 0}
    with tempfile.TemporaryDirectory(prefix="swaps-") as folder, cluster(Path(folder), replicas, settings) as started:
        for artifact in artifacts:
            started.store.publish(artifact)
        bodies = golden_bodies(*artifacts)[:_HISTORIES]
        versions = [artifact.manifest.model_version for artifact in artifacts]
        return asyncio.run(
            _run(
                started,
                versions,
                Load([replica.address for replica in started.replicas], bodies),
                swaps,
                steady_s,
                pause_s,
                rate,
            )
        )


async def _run(
    started: Cluster, versions: list[str], load: Load, swaps: int, steady_s: float, pause_s: float, rate: float
) -> dict[str, Any]:
    async with started.client() as client:
        for version in (versions[1], versions[0]):
            await started.activate(version)
            await load.learn(client, version)
        saturation = await load.saturate(client)
        rate = rate or saturation / 2
        steady, swapping = Phase(), Phase()
        lags = [await _lag(started, client)]
        await _steady(load, client, rate, steady, steady_s)
        lags.append(await _lag(started, client))
        operator = Operator(started, versions, pause_s)
        await load.during(client, rate, swapping, operator.swap_often(swaps))
        lags.append(await _lag(started, client))
        await _steady(load, client, rate, steady, steady_s)
        lags.append(await _lag(started, client))
        visible = await _availability(started, client)
    return {
        "saturation_per_s": round(saturation, 1),
        "rate_per_s": round(rate, 1),
        "swaps": swaps,
        "steady": steady.summary(),
        "swapping": swapping.summary(),
        "p99_swapping_over_steady": round(swapping.percentile_ms(99) / steady.percentile_ms(99), 3),
        "agree_s": _spread(operator.agree_s),
        "memory_last_over_tenth": round(operator.memory_bytes[1] / operator.memory_bytes[0], 4),
        "memory_mb_tenth_and_last": [round(size / 1e6, 1) for size in operator.memory_bytes],
        "event_loop_lag_above_10_ms": {
            "steady": _late([(lags[0], lags[1]), (lags[2], lags[3])]),
            "swapping": _late([(lags[1], lags[2])]),
        },
        "availability_visible_s": _spread(visible),
    }


class Operator:
    """Swaps the two versions, and notes how long the replicas took to agree and what memory they hold."""

    def __init__(self, started: Cluster, versions: list[str], pause_s: float) -> None:
        self._started, self._versions, self._pause_s = started, versions, pause_s
        self.agree_s: list[float] = []
        self.memory_bytes: list[int] = []

    async def swap_often(self, times: int) -> None:
        for number in range(times):
            self.agree_s.append(await self._started.activate(self._versions[(number + 1) % 2]))
            await asyncio.sleep(self._pause_s)
            if number + 1 in (_TENTH, times):  # reading it is work that disturbs
                await asyncio.sleep(_SETTLE_S)  # until what the swap ended has gone, and what it started is there
                self.memory_bytes.append(await asyncio.to_thread(self._started.memory_bytes))


async def _steady(load: Load, client: httpx.AsyncClient, rate: float, phase: Phase, seconds: float) -> None:
    await load.during(client, rate, phase, asyncio.sleep(seconds))


async def _availability(started: Cluster, client: httpx.AsyncClient) -> list[float]:
    """Seconds from the start of a PATCH until no replica returns the item any more, or all do again."""
    seconds = []
    first = started.replicas[0].address
    answer = (await client.post(f"{first}/recommend", json={"history": [], "k": 1})).json()
    item = answer["items"][0]["item_id"]  # the most popular one answers an empty history
    for number in range(_PROBES):
        begun = time.monotonic()
        body = {"items": [{"item_id": item, "available": number % 2 == 1}]}
        (await client.patch(f"{first}/catalog/items", json=body)).raise_for_status()
        await asyncio.gather(*(_shows(client, replica.address, item, number % 2 == 1) for replica in started.replicas))
        seconds.append(time.monotonic() - begun)
    return seconds


async def _shows(client: httpx.AsyncClient, address: str, item: str, wanted: bool) -> None:
    while True:
        answer = (await client.post(f"{address}/recommend", json={"history": [], "k": 1})).json()
        if (answer["items"][0]["item_id"] == item) == wanted:
            return
        await asyncio.sleep(0.005)


async def _lag(started: Cluster, client: httpx.AsyncClient) -> tuple[int, int]:
    """(times any worker looked, times its event loop was more than 10 ms late), from the replicas' own metric."""
    looks = late = 0
    for replica in started.replicas:
        lines = (await client.get(f"{replica.address}/metrics")).text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("prorec_event_loop_lag_seconds"))
        count = float(values["prorec_event_loop_lag_seconds_count"])
        looks += int(count)
        late += int(count - float(values[f'prorec_event_loop_lag_seconds_bucket{{le="{_LAG_LIMIT_S}"}}']))
    return looks, late


def _late(spans: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> dict[str, int]:
    """Of spans between two readings each."""
    return {
        "looks": sum(after[0] - before[0] for before, after in spans),
        "late": sum(after[1] - before[1] for before, after in spans),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "max": round(max(values), 3)}


if __name__ == "__main__":
    run(bench_swaps)
