"""Measured in one run on this machine: what filters and catalog changes cost an engine of a million items, or of
as many as are asked for.

    python -m deploy.bench_filters
    python -m deploy.bench_filters --items 10000

The catalog is synthetic (`deploy.synthetic`): codes 4 × 256, an untrained network. Runs with and without a filter are
interleaved, ratios are taken pair by pair, medians are printed.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray

from models.insertion import find, insert
from models.trie import CodeTrie
from service.catalog.records import ItemRecord
from service.engine.index import LiveIndex
from service.engine.startup import Engine, assemble
from service.frames import Condition, Query
from service.settings import Settings

from .commands import run
from .synthetic import random_codes, write_synthetic

FILTERS: Final[dict[str, Sequence[Condition]]] = {
    "one genre of 20": [Condition("genre", any_of=["genre-03"])],
    "all but one genre": [Condition("genre", none_of=["genre-03"])],
    "a price range": [Condition("price", gte=100.0, lte=300.0)],
    "three genres, a price range, new": [
        Condition("genre", any_of=["genre-01", "genre-02", "genre-03"]),
        Condition("price", lte=500.0),
        Condition("new", any_of=[True]),
    ],
    "one shelf: 10 items": [Condition("shelf", any_of=["shelf-777"])],
}
_HISTORY: Final = 20
_RUNS: Final = 20
_K: Final = 10
_MOST_CHANGES: Final = 1000


def bench(
    items: Annotated[int, typer.Option(min=_MOST_CHANGES, help="Items of the catalog.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime.")] = 2,
) -> None:
    """Prints a line for every figure."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = write_synthetic(Path(folder) / "synthetic", items)
        engine = assemble(artifact, Settings(provider="cpu", engine_threads=threads))
        print(f"{items:,} items, codes 4 × 256, states {artifact.trie.states()}, {engine.slot_count} filter slots")
        _compile(engine, items, rounds)
        _against_no_filter(engine, items, rounds)
        _preparing(engine, items)
        _changes(engine, items, rounds)
        _insertion(engine, rounds)


def drawn_ids(items: int, count: int, rng: np.random.Generator) -> list[str]:
    """Ids of `count` different items of a synthetic catalog, drawn evenly."""
    return [f"{number:08}" for number in rng.choice(items, count, replace=False)]


def free_codes(trie: CodeTrie, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Codes 4 × 256 that no item has, int32 [count, 4]; the trie is far from full."""
    drawn = random_codes(2 * count, 4, 256, rng).tokens
    return drawn[find(trie, drawn) < 0][:count]


def _compile(engine: Engine, items: int, rounds: int) -> None:
    for name, conditions in FILTERS.items():
        _report(f"compile {name}", _times(partial(engine.search.compile, 1, conditions, None), rounds))
    included = drawn_ids(items, 100, np.random.default_rng(2))
    _report("compile 100 include_items", _times(partial(engine.search.compile, 1, [], included), rounds))


def _against_no_filter(engine: Engine, items: int, rounds: int) -> None:
    """Engine time of a batch: preparing is apart, answering is the same."""
    for slot, conditions in enumerate(FILTERS.values(), start=1):
        engine.search.compile(slot, conditions, None)
    for rows in (1, 16):
        for slot, name in enumerate(FILTERS, start=1):
            plain, filtered = _batch(engine, items, rows, 0), _batch(engine, items, rows, slot)
            plain(), filtered()
            pairs = [(min(_times(plain, _RUNS)), min(_times(filtered, _RUNS))) for _ in range(rounds)]
            ratio = statistics.median(b / a for a, b in pairs)
            alone, with_filter = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
            print(f"batch of {rows}, {name}: {alone:.2f} ms without, {with_filter:.2f} ms with, ratio {ratio:.3f}")


def _batch(engine: Engine, items: int, rows: int, slot: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    prepared = [engine.catalog.ticket(_query(items, rng), slot).prepared for _ in range(rows)]
    return lambda: engine.search.run([row.row for row in prepared], prepared[0].shape)


def _query(items: int, rng: np.random.Generator) -> Query:
    return Query(1, drawn_ids(items, _HISTORY, rng), _K, math.inf)


def _preparing(engine: Engine, items: int) -> None:
    rng = np.random.default_rng(1)
    for slot, name in ((0, "no filter"), (1, "a warm filter")):
        queries = [_query(items, rng) for _ in range(2000)]
        times = [_times(partial(engine.catalog.ticket, query, slot), 1)[0] for query in queries]
        _report(f"prepare a query, {name}", times)


def _changes(engine: Engine, items: int, rounds: int) -> None:
    """With a filter in every slot."""
    for slot in range(1, engine.slot_count):
        engine.search.compile(slot, [Condition("price", lte=float(slot * 30))], None)
    shown: list[float] = []

    def between(action: Callable[[], None]) -> None:
        shown.extend(_times(action, 1))

    for count in (1, 100, _MOST_CHANGES):
        shown.clear()
        changed = drawn_ids(items, count, np.random.default_rng(count))
        for times in range(rounds):
            records = [ItemRecord(item, 1, available=times % 2 == 1) for item in changed]
            engine.search.apply(1, records, {}, between)
        _report(f"apply {count} changes, {engine.slot_count} slots: searches wait", shown)


def _insertion(engine: Engine, rounds: int) -> None:
    index: LiveIndex = engine.search.index
    trie, rng = index.state.trie, np.random.default_rng(5)
    for count in (1, 1000):
        codes = free_codes(trie, count, rng)
        new = np.arange(trie.item_count, trie.item_count + count, dtype=np.int32)
        _report(f"insert {count} into the trie", _times(partial(insert, trie, codes, new), rounds))
        insertion = insert(trie, codes, new)
        resident = range(engine.slot_count)
        _report(f"  and into {len(resident)} slots", _times(partial(index.grown, insertion, new, resident), 3))


def _times(call: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def _report(name: str, times: Sequence[float]) -> None:
    print(f"{name}: median {statistics.median(times) * 1e3:.3f} ms, slowest {max(times) * 1e3:.3f} ms")


if __name__ == "__main__":
    run(bench)
