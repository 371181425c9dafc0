"""New items over HTTP: the items that `deploy.cold_items` held out are added to a replica that serves, and asked for.

    python -m deploy.cold_items_live artifacts/FOLDER/prorec --data DIR

The artifact is one that `deploy.cold_items` trained; which items it held out stands in its folder. One replica serves
it; those items are sent to `POST /catalog/items` as text, and users whose last event is one of them are asked for,
before and after. Prints one JSON object: Recall@50 both times, and how long the items took until they could come back.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from models.artifact import Artifact

from .cluster import Cluster, cluster
from .cold_items import Ask, Split, last_events
from .commands import run

_K: Final = 50
_ITEMS_PER_CHANGE: Final = 500
_ROWS_PER_BATCH: Final = 50
_WAIT_MS: Final = 120_000


def main(
    artifact: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact of `deploy.cold_items`.")],
    data: Annotated[Path, typer.Option(help="The whole dataset folder.")],
    users: Annotated[int, typer.Option(help="Users with a known last item to measure, at most.")] = 1000,
) -> None:
    """Prints one JSON object."""
    try:
        split = Split.of(artifact.absolute().parent)
    except FileNotFoundError:
        raise typer.BadParameter("no split.json beside it, so none of deploy.cold_items", param_hint="DIR") from None
    whole, cold = split.read(data)
    added = [item for item, is_cold in zip(whole.items, cold.tolist(), strict=True) if is_cold]
    asks = last_events(whole, cold)
    asks["known"] = asks["known"][:: max(1, len(asks["known"]) // users)][:users]
    settings = {"max_timeout_ms": _WAIT_MS}
    with tempfile.TemporaryDirectory(prefix="cold-") as folder, cluster(Path(folder), 1, settings) as started:
        opened = Artifact.open(artifact)
        started.store.publish(opened)
        report = asyncio.run(_run(started, opened.manifest.model_version, added, asks))
    print(json.dumps({"items": len(added)} | report, indent=2))


async def _run(
    started: Cluster, version: str, added: Sequence[dict[str, Any]], asks: dict[str, list[Ask]]
) -> dict[str, Any]:
    address = started.replicas[0].address
    async with started.client() as client:
        await started.activate(version)
        before = {kind: await _recall(client, address, asked) for kind, asked in asks.items()}
        begun, unplaced = time.monotonic(), 0
        for records in _pieces(added, _ITEMS_PER_CHANGE):
            body = {"items": [{"item": record} for record in records], "wait_ms": _WAIT_MS}
            answer = await client.post(f"{address}/catalog/items", json=body, timeout=_WAIT_MS / 1000 + 5)
            unplaced += len(answer.raise_for_status().json()["unplaced"])
        took_s = time.monotonic() - begun
        after = {kind: await _recall(client, address, asked) for kind, asked in asks.items()}
        one_s = await _one(client, address, added[0])
    return {
        "events": {kind: len(asked) for kind, asked in asks.items()},
        f"recall@{_K} before": before,
        f"recall@{_K} after": after,
        "all_added_s": round(took_s, 2),
        "unplaced": unplaced,
        "one_more_item_s": round(one_s, 3),
    }


async def _recall(client: httpx.AsyncClient, address: str, asks: Sequence[Ask]) -> float:
    """Share of the events whose item is among the first 50."""
    found = 0
    for part in _pieces(asks, _ROWS_PER_BATCH):
        requests = [{"history": ask.history, "k": _K, "beam_width": _K} for ask in part]
        answer = await client.post(f"{address}/recommend/batch", json={"requests": requests, "timeout_ms": 60_000})
        for ask, result in zip(part, answer.raise_for_status().json()["results"], strict=True):
            found += ask.target in {item["item_id"] for item in result["recommendation"]["items"]}
    return round(found / len(asks), 4)


async def _one(client: httpx.AsyncClient, address: str, like: dict[str, Any]) -> float:
    """Seconds from sending one more new item until it comes back."""
    item = like | {"item_id": "one-more"}
    begun = time.monotonic()
    body = {"items": [{"item": item}], "wait_ms": _WAIT_MS}
    (await client.post(f"{address}/catalog/items", json=body, timeout=_WAIT_MS / 1000 + 5)).raise_for_status()
    ask = {"history": [like["item_id"]], "k": 1, "include_items": ["one-more"]}
    answer = (await client.post(f"{address}/recommend", json=ask)).raise_for_status().json()
    if [found["item_id"] for found in answer["items"]] != ["one-more"]:
        raise RuntimeError(f"the item did not come back: {answer}")
    return time.monotonic() - begun


def _pieces(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


if __name__ == "__main__":
    run(main)
