"""What a shadow costs the version that serves, measured in one run.

    python -m deploy.bench_shadow artifacts/movielens-100k-1 artifacts/movielens-100k-2

One replica under open-loop load; in turn without and with a shadow, block by block. Prints the p99 of both, their ratio
block by block, and how much work the shadow did. The exit code says whether every request was answered as it should be.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from models.artifact import Artifact

from .cluster import Cluster, cluster, golden_bodies
from .commands import run
from .load import Load, Phase

_SETTLE_S: Final = 1.0
_READY_LIMIT: Final = 600
_LOOK_S: Final = 0.1


def bench_shadow(
    active: Annotated[Path, typer.Argument(metavar="DIR", help="Artifact that serves.")],
    shadow: Annotated[Path, typer.Argument(metavar="DIR", help="Artifact in its shadow.")],
    blocks: Annotated[int, typer.Option(min=2, help="Pairs of blocks without and with the shadow.")] = 8,
    block_s: Annotated[float, typer.Option(min=1)] = 15.0,
    rate: Annotated[float, typer.Option(help="Requests a second; 0: half of saturation.")] = 0.0,
) -> None:
    """Prints one JSON object."""
    artifacts = [Artifact.open(active), Artifact.open(shadow)]
    with tempfile.TemporaryDirectory(prefix="shadow-") as folder, cluster(Path(folder), 1, {}) as started:
        for artifact in artifacts:
            started.store.publish(artifact)
        bodies = golden_bodies(artifacts[0])
        load = Load([started.replicas[0].address], bodies)
        names = [artifact.manifest.model_version for artifact in artifacts]
        report, flawless = asyncio.run(_run(started, load, names, blocks, block_s, rate))
    print(json.dumps(report, indent=2))
    sys.exit(not flawless)


async def _run(
    started: Cluster, load: Load, names: list[str], blocks: int, block_s: float, rate: float
) -> tuple[dict[str, Any], bool]:
    address = started.replicas[0].address
    pairs: list[tuple[Phase, Phase]] = []
    async with started.client() as client:
        await started.activate(names[0])
        await load.learn(client, names[0])
        rate = rate or await load.saturate(client) / 2
        for _ in range(blocks):
            pair = (Phase(), Phase())
            for phase, version in zip(pair, (None, names[1]), strict=True):
                await _shadow(client, address, version)
                await load.during(client, rate, phase, asyncio.sleep(block_s))
            pairs.append(pair)
        work = await _work(client, address)
    ratios = [loaded.percentile_ms(99) / plain.percentile_ms(99) for plain, loaded in pairs]
    report = {
        "rate_per_s": round(rate, 1),
        "p99_ms_without": [plain.percentile_ms(99) for plain, _ in pairs],
        "p99_ms_with": [loaded.percentile_ms(99) for _, loaded in pairs],
        "p99_ratio_median": round(statistics.median(ratios), 3),
        "p99_ratio_of_all_blocks": round(_pooled(pairs, 1) / _pooled(pairs, 0), 3),
        "shadow": work,
    }
    return report, all(phase.flawless for pair in pairs for phase in pair)


def _pooled(pairs: list[tuple[Phase, Phase]], which: int) -> float:
    """p99 over all blocks of one kind, ms."""
    return Phase.merged(pair[which] for pair in pairs).percentile_ms(99)


async def _shadow(client: httpx.AsyncClient, address: str, version: str | None) -> None:
    """Returns once the shadow is there, or gone."""
    (await client.put(f"{address}/traffic", json={"canary": None, "shadow": version})).raise_for_status()
    for _ in range(_READY_LIMIT):
        ready = (await client.get(f"{address}/health/ready")).json()
        if ready["shadow_version"] == version:
            await asyncio.sleep(_SETTLE_S)
            return
        await asyncio.sleep(_LOOK_S)
    raise TimeoutError(f"the shadow did not become {version}")


async def _work(client: httpx.AsyncClient, address: str) -> dict[str, float]:
    lines = (await client.get(f"{address}/metrics")).text.splitlines()
    wanted = ("prorec_shadow_requests_total", "prorec_shadow_overlap_ratio_sum", "prorec_shadow_overlap_ratio_count")
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith(wanted))}


if __name__ == "__main__":
    run(bench_shadow)
