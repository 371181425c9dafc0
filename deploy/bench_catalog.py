"""Measured on this machine: loading a catalog, compiling filters that were never seen, finding items by text.

    python -m deploy.bench_catalog --items 1000000

The catalog is synthetic: titles of four words, ten thousand brands, one to three of 500 tags, price, year and a flag.
Times are medians of calls with other values each; nothing is cached between them but the pages of the mapped files.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from models.artifact import Artifact, ArtifactWriter
from models.codes import CodeTable
from models.config import ModelConfig
from models.item_ids import ItemIds
from service.catalog.items import LiveItems
from service.catalog.records import ItemRecord
from service.frames import Condition
from service.reader.text_search import TextSearch

_TOKENS = 256
_WORDS = 20_000
Figures = dict[str, float]


def bench(
    items: Annotated[int, typer.Option(help="Items of the catalog.")] = 1_000_000,
    overlay: Annotated[int, typer.Option(help="Items with changed attributes.")] = 20_000,
    rounds: Annotated[int, typer.Option(help="Calls of each kind.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Prints a line for every figure."""
    with tempfile.TemporaryDirectory() as folder:
        figures, artifact = _write(Path(folder), items)
        live, loaded = _load(artifact)
        figures |= loaded | _changes(live, overlay) | _filters(live, rounds) | _searches(live, rounds)
    print(
        json.dumps(figures) if as_json else "\n".join(f"{name:<44} {value:>14,.2f}" for name, value in figures.items())
    )


def synthetic_artifact(folder: Path, items: int) -> Artifact:
    """An artifact without graphs, whose codes and metadata are random; the same for the same number of items."""
    rng = np.random.default_rng(0)
    flat = rng.permutation(np.unique(rng.integers(0, _TOKENS**4, items + items // 50 + 100)))[:items]
    tokens = np.stack([flat >> shift & 255 for shift in (24, 16, 8, 0)], axis=1).astype(np.int32)
    with ArtifactWriter(folder / f"synthetic-{items}") as writer:
        ids = ItemIds.build([f"item-{number}" for number in range(items)])
        writer.catalog(CodeTable(tokens, _TOKENS), ids, list(_metadata(rng, items)))
        return writer.commit(
            config=ModelConfig(code_length=4, tokens_per_level=_TOKENS, width=8, heads=1),
            item_count=items,
            beam_widths=(4,),
            default_beam_width=4,
            history_buckets=(50,),
            rescore_weight=0.0,
            dataset="synthetic",
            training_fingerprint="0" * 64,
            metrics={},
            tools={},
        )


def _metadata(rng: np.random.Generator, items: int) -> Iterator[dict[str, Any]]:
    words = rng.integers(0, _WORDS, (items, 4))
    brands, tags = rng.zipf(1.3, items) % 10_000, rng.integers(0, 500, (items, 3))
    prices, years, flags = rng.gamma(2, 20, items), rng.integers(1950, 2026, items), rng.random(items) < 0.3
    for row in range(items):
        yield {
            "item_id": f"item-{row}",
            "title": " ".join(f"Word{word}" for word in words[row].tolist()),
            "brand": f"Brand {brands[row]}",
            "tags": [f"tag-{tag}" for tag in set(tags[row, : 1 + row % 3].tolist())],
            "price": round(float(prices[row]), 2),
            "year": int(years[row]),
            "in_stock": bool(flags[row]),
        }


def _write(folder: Path, items: int) -> tuple[Figures, Artifact]:
    started = time.perf_counter()
    artifact = synthetic_artifact(folder, items)
    return {"items": float(items), "write artifact, s": time.perf_counter() - started}, artifact


def _load(artifact: Artifact) -> tuple[LiveItems, Figures]:
    started = time.perf_counter()
    live = LiveItems(Artifact.open(artifact.folder, verify=False), spare_items=65_536)
    spent = time.perf_counter() - started
    attributes = live.attributes.nbytes / 2**20
    return live, {"load, ms": 1e3 * spent, "attributes, MiB on disk": attributes}


def _changes(live: LiveItems, overlay: int) -> Figures:
    """Changes `overlay` items in messages of a thousand, as the service does."""
    stages, commits = [], []
    for start in range(0, overlay, 1000):
        records = [
            ItemRecord(
                f"item-{number}", 1, attributes={"price": 1.0 + number, "tags": ["tag-1", f"live-{number % 50}"]}
            )
            for number in range(start, min(start + 1000, overlay))
        ]
        started = time.perf_counter()
        staged = live.stage(records, {})
        middle = time.perf_counter()
        live.commit(staged)
        stages.append(middle - started)
        commits.append(time.perf_counter() - middle)
    if not stages:
        return {}
    return {"stage 1,000 patches, ms": 1e3 * statistics.median(stages), "commit, ms": 1e3 * statistics.median(commits)}


def _filters(live: LiveItems, rounds: int) -> Figures:
    rng = np.random.default_rng(1)
    mixes: dict[str, Callable[[], list[Condition]]] = {
        "tag any_of 1": lambda: [_tags(rng, 1)],
        "tag any_of 100": lambda: [_tags(rng, 100)],
        "brand any_of 1,000": lambda: [_brands(rng, 1000)],
        "price between": lambda: [_prices(rng)],
        "in stock": lambda: [Condition("in_stock", any_of=[True])],
        "year any_of 10": lambda: [_years(rng, 10)],
        "tags 3, price between, in stock": lambda: [
            _tags(rng, 3), _prices(rng), Condition("in_stock", any_of=[True])
        ],
        "brand none_of 1,000, tags 100, years 50": lambda: [
            Condition("brand", none_of=_brands(rng, 1000).any_of), _tags(rng, 100), _years(rng, 50)
        ],
    }  # fmt: skip
    figures = {}
    for name, mix in mixes.items():
        figures[f"filter, ms: {name}"] = 1e3 * statistics.median(_compiled(live, mix()) for _ in range(rounds))
    some = rng.integers(0, live.count, 1000).astype(np.int32)
    matcher = live.matcher(mixes["tags 3, price between, in stock"]())
    figures["the last but one over 1,000 items, ms"] = 1e3 * statistics.median(
        _timed(lambda: matcher(some)) for _ in range(rounds)
    )
    return figures


def _compiled(live: LiveItems, conditions: list[Condition]) -> float:
    return _timed(lambda: live.matcher(conditions)(None))


def _searches(live: LiveItems, rounds: int) -> Figures:
    search, rng = TextSearch(live), np.random.default_rng(2)
    queries: dict[str, Callable[[], str]] = {
        "a rare word": lambda: f"Word{rng.integers(_WORDS)}",
        "two words": lambda: f"brand word{rng.integers(_WORDS)}",
        "a word no item has": lambda: "nothing",
        "a word most items have": lambda: "brand",
        "an id": lambda: f"item-{rng.integers(live.trained)}",
    }
    figures = {}
    for name, query in queries.items():
        texts = [query() for _ in range(rounds)]
        spent = statistics.median(_searched(search, text) for text in texts)
        figures[f"find, ms: {name}"] = 1e3 * spent
        figures[f"found: {name}"] = float(search.find(texts[-1], 10).total or -1)
    return figures


def _searched(search: TextSearch, text: str) -> float:
    return _timed(lambda: search.find(text, 10))


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _tags(rng: np.random.Generator, count: int) -> Condition:
    return Condition("tags", any_of=[f"tag-{tag}" for tag in rng.choice(500, count, replace=False)])


def _brands(rng: np.random.Generator, count: int) -> Condition:
    return Condition("brand", any_of=[f"Brand {brand}" for brand in rng.choice(10_000, count, replace=False)])


def _years(rng: np.random.Generator, count: int) -> Condition:
    return Condition("year", any_of=rng.choice(np.arange(1950, 2026), count, replace=False).astype(float).tolist())


def _prices(rng: np.random.Generator) -> Condition:
    low = float(rng.random() * 30)
    return Condition("price", gte=low, lte=low + 30)


if __name__ == "__main__":
    typer.run(bench)
