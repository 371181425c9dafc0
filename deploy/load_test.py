"""Open-loop load on a running service, with version swaps meanwhile if wanted.

    python -m deploy.load_test --data data/movielens-100k --rate 50 --seconds 30
    python -m deploy.load_test --data data/movielens-100k --rate 50 --seconds 30 --swap shop-1,shop-2

Requests start at Poisson times whatever the answers do, and latency counts from the intended start, so a stalled
service cannot hide. With `--swap` the versions are activated in turn (PROREC_ADMIN_TOKEN is needed), and every answer
must be the one that the version it names gave before the load began. The exit code says whether every request was
answered, and consistently. Histories are real ones from a dataset folder.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import httpx
import typer

from training.interactions import leave_one_out, read_dataset

from .load import Load, Phase

_SWITCH_LIMIT_S = 60
_SWITCHES_PER_RUN = 10


def load_test(
    data: Annotated[Path, typer.Option(help="Dataset folder whose test histories are asked for.")],
    address: Annotated[str, typer.Option()] = "http://127.0.0.1:8000",
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=1)] = 30.0,
    k: Annotated[int, typer.Option(min=1)] = 10,
    swap: Annotated[str, typer.Option(help="Versions to activate in turn, comma-separated.")] = "",
) -> None:
    """Runs the load and prints a report."""
    bodies = [{"history": history, "k": k} for history in _histories(data)]
    versions = [version for version in swap.split(",") if version]
    phase, swaps = asyncio.run(_run(address, Load([address], bodies), rate, seconds, versions))
    _show(phase, swaps)
    sys.exit(not phase.flawless)


def _histories(data: Path, limit: int = 200) -> list[list[str]]:
    split = leave_one_out(read_dataset(data))
    ids = split.interactions.item_ids
    return [[ids[item] for item in split.test.history(row)] for row in range(min(limit, len(split.test)))]


async def _run(address: str, load: Load, rate: float, seconds: float, versions: Sequence[str]) -> tuple[Phase, int]:
    phase = Phase()
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits) as client:
        client.headers["Authorization"] = f"Bearer {os.environ.get('PROREC_ADMIN_TOKEN', '')}"
        for version in versions:
            await _activate(client, version)
            await load.learn(client, version)
        swaps = await load.during(client, rate, phase, _swap(client, versions, seconds))
    return phase, swaps


async def _activate(client: httpx.AsyncClient, version: str) -> None:
    """Returns once the service answers with that version."""
    (await client.post(f"/models/{version}/activate")).raise_for_status()
    deadline = time.monotonic() + _SWITCH_LIMIT_S
    while (await client.get("/health/ready")).json()["model_version"] != version:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{version} was not serving after {_SWITCH_LIMIT_S} s")
        await asyncio.sleep(0.05)


async def _swap(client: httpx.AsyncClient, versions: Sequence[str], seconds: float) -> int:
    """Lasts `seconds` and swaps about ten times meanwhile, if there are versions to swap; how often it did."""
    swaps, ends = 0, time.monotonic() + seconds
    while versions and time.monotonic() < ends - seconds / _SWITCHES_PER_RUN:
        await asyncio.sleep(seconds / _SWITCHES_PER_RUN)
        await _activate(client, versions[swaps % len(versions)])
        swaps += 1
    await asyncio.sleep(max(0.0, ends - time.monotonic()))
    return swaps


def _show(phase: Phase, swaps: int) -> None:
    print(f"answered {len(phase.latency_s)}, failed {sum(phase.failures.values())} {dict(phase.failures)}, "
          f"inconsistent {phase.mixed}, swaps {swaps}")  # fmt: skip
    print(f"answers by version {dict(phase.versions)}")
    print("latency ms: " + ", ".join(f"p{percent} {phase.percentile_ms(percent)}" for percent in (50, 95, 99, 100)))


if __name__ == "__main__":
    typer.run(load_test)
