"""Open-loop load on a running service, with version swaps meanwhile if wanted.

    python -m deploy.load_test --data data/movielens-100k --rate 50 --seconds 30
    python -m deploy.load_test --data data/movielens-100k --rate 50 --seconds 30 --swap shop-1,shop-2

Requests start at Poisson times whatever the answers do, and latency counts from the intended start, so a stalled
service cannot hide. With `--swap` the versions are activated in turn (PROREC_ADMIN_TOKEN is needed), and every answer
must be the one that the version it names gave before the load began. The exit code says whether every request was
answered, and consistently. Histories are real ones from a dataset folder.
"""

import asyncio
import collections
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer

from training.interactions import leave_one_out, read_dataset

_SWITCH_LIMIT_S = 60
_SWITCHES_PER_RUN = 10
Expected = dict[str, list[list[str]]]
"""Version → item ids answered to each history."""


@dataclass
class Report:
    """What came of a run; latencies in seconds from the intended start."""

    latency_s: list[float] = field(default_factory=list)
    by_version: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    inconsistent: int = 0
    swaps: int = 0

    def show(self) -> None:
        milliseconds = 1e3 * np.percentile(self.latency_s or [float("nan")], [50, 95, 99, 100])
        print(f"answered {len(self.latency_s)}, failed {sum(self.failures.values())} {dict(self.failures)}, "
              f"inconsistent {self.inconsistent}, swaps {self.swaps}")  # fmt: skip
        print(f"answers by version {dict(self.by_version)}")
        print("latency ms: p50 {:.1f}, p95 {:.1f}, p99 {:.1f}, max {:.1f}".format(*milliseconds))

    @property
    def flawless(self) -> bool:
        return bool(self.latency_s) and not self.failures and not self.inconsistent


def load_test(
    data: Annotated[Path, typer.Option(help="Dataset folder whose test histories are asked for.")],
    address: Annotated[str, typer.Option()] = "http://127.0.0.1:8000",
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=1)] = 30.0,
    k: Annotated[int, typer.Option(min=1)] = 10,
    swap: Annotated[str, typer.Option(help="Versions to activate in turn, comma-separated.")] = "",
) -> None:
    """Runs the load and prints a report."""
    histories = _histories(data)
    report = asyncio.run(_run(address, histories, rate, seconds, k, [v for v in swap.split(",") if v]))
    report.show()
    sys.exit(not report.flawless)


def _histories(data: Path, limit: int = 200) -> list[list[str]]:
    split = leave_one_out(read_dataset(data))
    ids = split.interactions.item_ids
    return [[ids[item] for item in split.test.history(row)] for row in range(min(limit, len(split.test)))]


async def _run(
    address: str, histories: Sequence[list[str]], rate: float, seconds: float, k: int, versions: Sequence[str]
) -> Report:
    token = os.environ.get("PROREC_ADMIN_TOKEN", "")
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        report = Report()
        bodies = [{"history": history, "k": k} for history in histories]
        expected = {version: await _answers_of(client, version, bodies) for version in versions}
        swapping = asyncio.create_task(_swap(client, versions, seconds, report)) if versions else None
        await _arrivals(client, bodies, rate, seconds, expected, report)
        if swapping:
            await swapping
    return report


async def _answers_of(client: httpx.AsyncClient, version: str, bodies: Sequence[dict[str, Any]]) -> list[list[str]]:
    await _activate(client, version)
    return [_items((await client.post("/recommend", json=body)).raise_for_status().json()) for body in bodies]


async def _activate(client: httpx.AsyncClient, version: str) -> None:
    """Returns once the service answers with that version."""
    (await client.post(f"/models/{version}/activate")).raise_for_status()
    deadline = time.monotonic() + _SWITCH_LIMIT_S
    while (await client.get("/health/ready")).json()["model_version"] != version:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{version} was not serving after {_SWITCH_LIMIT_S} s")
        await asyncio.sleep(0.05)


async def _swap(client: httpx.AsyncClient, versions: Sequence[str], seconds: float, report: Report) -> None:
    """Swaps about ten times, evenly over the run."""
    ends = time.monotonic() + seconds * (1 - 1 / _SWITCHES_PER_RUN)
    while time.monotonic() < ends:
        await asyncio.sleep(seconds / _SWITCHES_PER_RUN)
        await _activate(client, versions[report.swaps % len(versions)])
        report.swaps += 1


async def _arrivals(
    client: httpx.AsyncClient,
    bodies: Sequence[dict[str, Any]],
    rate: float,
    seconds: float,
    expected: Expected,
    report: Report,
) -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds)))
    begun = time.monotonic()
    tasks = []
    for number, moment in enumerate(times.tolist()):
        await asyncio.sleep(max(0.0, begun + moment - time.monotonic()))
        tasks.append(asyncio.create_task(_ask(client, number % len(bodies), bodies, begun + moment, expected, report)))
    await asyncio.gather(*tasks)


async def _ask(
    client: httpx.AsyncClient,
    number: int,
    bodies: Sequence[dict[str, Any]],
    intended: float,
    expected: Expected,
    report: Report,
) -> None:
    try:
        response = await client.post("/recommend", json=bodies[number])
    except httpx.HTTPError as error:
        report.failures[type(error).__name__] += 1
        return
    if response.status_code != 200:
        report.failures[str(response.status_code)] += 1
        return
    report.latency_s.append(time.monotonic() - intended)
    answer = response.json()
    report.by_version[answer["model_version"]] += 1
    if expected and _items(answer) != expected[answer["model_version"]][number]:
        report.inconsistent += 1


def _items(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


if __name__ == "__main__":
    typer.run(load_test)
