"""A catalog's way into service, measured on this machine: built, published to Redis, fetched, loaded, changed.

    python -m deploy.bench_publish --items 10000 --items 1000000

The catalog is synthetic (`deploy.synthetic`: codes 4 × 256, a temporal network, three attributes and a flag, empty
metadata), Redis is an embedded one with its append-only file. Prints one JSON object a size. Each figure is one run,
those of changes the median of five; `artifact_s` is mostly the export of the graph, which is the same at any size.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import numpy as np
import typer

from models.artifact import Artifact
from models.trie import CodeTrie
from service.catalog.records import ItemRecord
from service.embedded_redis import embedded_redis
from service.engine.startup import Engine, load
from service.quiet import at_once
from service.settings import Settings
from service.store import Store

from .commands import run
from .synthetic import write_synthetic

_CHANGES: Final = (1, 1000)
_ROUNDS: Final = 5
T = TypeVar("T")


def bench_publish(
    items: Annotated[list[int], typer.Option(min=1, help="Items of the catalog.")] = [10_000],  # noqa: B006
    width: Annotated[int, typer.Option(min=1, help="D of the network, and so of two rows of floats an item.")] = 64,
) -> None:
    """Prints one JSON object for each size."""
    for count in items:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_figures(Path(folder), count, width)), flush=True)


def _figures(folder: Path, items: int, width: int) -> dict[str, Any]:
    artifact, build_s = _timed(lambda: write_synthetic(folder / f"synthetic-{items}", items, width=width))
    trie, trie_s = _timed(lambda: CodeTrie.build(artifact.codes))
    found: dict[str, Any] = {"items": items, "width": width, "artifact_s": build_s, "trie_s": trie_s}
    found |= {"artifact_mb": _megabytes(_size(artifact)), "trie_mb": _megabytes(trie.nbytes)}
    with _store(folder / "redis") as store:
        _, found["publish_s"] = _timed(lambda: store.publish(artifact))
        fetched, found["fetch_s"] = _timed(lambda: store.fetch(artifact.manifest.model_version, folder / "cache"))
    settings = Settings(provider="cpu", engine_threads=1)
    engine, found["load_s"] = _timed(lambda: load(fetched.folder, settings, lambda _: None, at_once))
    return found | dict(_changes(engine, items))


@contextmanager
def _store(folder: Path) -> Iterator[Store]:
    with embedded_redis(folder) as url, closing(Store.connect(url, "bench")) as store:
        yield store


def _size(artifact: Artifact) -> int:
    return sum(entry.bytes for entry in artifact.manifest.files.values())


def _changes(engine: Engine, items: int) -> Iterator[tuple[str, float]]:
    """Milliseconds from a change of availability to when every search obeys it; the median of some."""
    rng = np.random.default_rng(0)
    for count in _CHANGES:
        numbers = rng.choice(items, count, replace=False).tolist()
        times = []
        for turn in range(_ROUNDS):
            records = [ItemRecord(f"{number:08}", 1, available=turn % 2 == 1) for number in numbers]
            times.append(_timed(partial(engine.search.apply, 1, records, {}, _show))[1])
        yield f"change_{count}_ms", round(1e3 * float(np.median(times)), 3)


def _show(action: Callable[[], None]) -> None:
    action()


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = call()
    return result, round(time.perf_counter() - started, 6)


def _megabytes(size: int) -> float:
    return round(size / 1e6, 1)


if __name__ == "__main__":
    run(bench_publish)
