"""What is asked for: histories of a dataset folder, or made-up ones."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from ..errors import MisuseError
from .options import Options

_PAGE: Final = 1000
_READER_LIMIT_S: Final = 30.0
_LOOK_S: Final = 0.2
_SHORTEST, _LONGEST, _TAIL = 4, 200, 2.0
_ZIPF: Final = 1.0


async def bodies(options: Options, client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Bodies of POST /recommend; raises MisuseError."""
    options.check_histories()
    if options.data:
        found = of_dataset(options.data, options.histories, options.seed)
    else:
        ids = await _item_ids(options, client)
        found = made_up(ids, options.histories, np.random.default_rng(options.seed))
    return [{"history": history, "k": options.k} for history in found]


def of_dataset(folder: Path, count: int, seed: int) -> list[list[str]]:
    """Test histories of `count` users, item ids oldest first; drawn, because files may list busy users first."""
    from training.errors import TrainingError  # of all that trains, what reads a dataset needs no torch
    from training.interactions import leave_one_out, read_dataset

    try:
        split = leave_one_out(read_dataset(folder))
    except TrainingError as error:
        raise MisuseError(f"--data {folder}: {error}") from error
    ids, users = split.interactions.item_ids, len(split.test)
    rows = np.random.default_rng(seed).choice(users, size=min(count, users), replace=False)
    return [[ids[item] for item in split.test.history(int(row))] for row in rows]


def made_up(item_ids: Sequence[str], count: int, rng: np.random.Generator) -> list[list[str]]:
    """Histories of different items; which ones by Zipf's law over a random order of popularity.

    Lengths have the distribution 4 · U^(-1/2), U even in 0 to 1, at most 200: near those of published 5-core sets of
    shops (quartiles 4, 5 and 8, a twentieth above 17 to 20).
    """
    popularity = 1.0 / np.arange(1, len(item_ids) + 1) ** _ZIPF
    order = rng.permutation(len(item_ids))
    longest = min(_LONGEST, len(item_ids))
    lengths = np.minimum(_SHORTEST * (1.0 - rng.random(count)) ** (-1 / _TAIL), longest).astype(int)
    share = popularity / popularity.sum()
    draws = (rng.choice(len(item_ids), size=int(length), replace=False, p=share) for length in lengths)
    return [[item_ids[order[item]] for item in drawn] for drawn in draws]


async def _item_ids(options: Options, client: httpx.AsyncClient) -> list[str]:
    if options.item_ids:
        return [options.item_ids.replace("{}", str(number)) for number in range(options.item_count)]
    found: list[str] = []
    while len(found) < options.item_count:
        page = {"limit": min(_PAGE, options.item_count - len(found)), "offset": len(found)}
        items = await _page(client, page)
        if not items:
            break
        found += items
    if not found:
        raise MisuseError("the service has no items")
    return found


async def _page(client: httpx.AsyncClient, page: dict[str, int]) -> list[str]:
    """Waits for the reader, which answers a moment after the version that serves does."""
    deadline = time.monotonic() + _READER_LIMIT_S
    while (answer := await client.get("/items", params=page)).status_code == 503 and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
    if answer.status_code != 200:
        raise MisuseError(f"GET /items is {answer.status_code}, so there are no ids: name them with --item-ids")
    return [item["item_id"] for item in answer.json()["items"]]
