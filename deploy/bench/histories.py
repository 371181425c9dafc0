"""Histories of real users: how long they are, and what it is worth not to pad them all to the longest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.graph import SearchRow, bucket_for, request_inputs
from service.engine.search import GraphSearch, Shape
from training.finish import history_buckets
from training.interactions import leave_one_out, read_dataset

from .catalogs import BenchCatalog
from .engine import EngineSearch
from .findings import Finding
from .networks import Prepared
from .products import products_of
from .timing import interleaved, whole

LENGTH: Final = 20
_USERS: Final = 512
_BATCH: Final = 64  # PROREC_MAX_BATCH_ROWS


@dataclass(frozen=True)
class RealHistories:
    """item_ids  N ids; histories  int32 [t] each, item indices, oldest first, of users in random order."""

    item_ids: list[str]
    histories: list[NDArray[np.int32]]

    @classmethod
    def read(cls, data: Path, users: int = _USERS, seed: int = 0) -> "RealHistories":
        """What users of a dataset folder had done before their last event; errors as in `read_dataset`."""
        interactions = read_dataset(data)
        test = leave_one_out(interactions).test
        chosen = np.random.default_rng(seed).permutation(len(test))[:users]
        return cls(interactions.item_ids, [test.history(int(row)) for row in chosen])


def batches(
    histories: Sequence[NDArray[np.int32]], buckets: Sequence[int], rows: int = _BATCH
) -> list[tuple[int, list[SearchRow]]]:
    """(bucket, rows) as a full queue closes them: searches of one bucket share a batch, in order of arrival."""
    queues: dict[int, list[SearchRow]] = {}
    for history in histories:
        newest = history[-buckets[-1] :]
        queues.setdefault(bucket_for(len(newest), buckets), []).append(SearchRow(newest))
    return [(b, queue[at : at + rows]) for b, queue in queues.items() for at in range(0, len(queue), rows)]


def padded(history: NDArray[np.int32]) -> NDArray[np.int32]:
    """int32 [LENGTH]: the newest items, and before them -1, as the graph knows padding."""
    newest = history[-LENGTH:]
    return np.concatenate([np.full(LENGTH - len(newest), -1, dtype=np.int32), newest])


def operations_by_length(prepared: Prepared, catalog: BenchCatalog, beams: int) -> np.poly1d:
    """Multiplications and additions of the products of one search, by the length of its history.

    Attention makes it a polynomial of degree two, which three lengths decide.
    """
    artifact, lengths = prepared.artifact, (1, LENGTH // 2, LENGTH)
    graph, code_length = artifact.cpu_graph_path(beams), prepared.config.code_length
    session = EngineSearch(artifact, catalog, 1).session(beams)
    feeds = (catalog.inputs | request_inputs(catalog.rows(1, n), n, code_length, 0.0) for n in lengths)
    return np.poly1d(np.polyfit(lengths, [products_of(session, graph, feed).flops for feed in feeds], 2))


def padding_findings(
    prepared: Prepared, real: RealHistories, beams: int, threads: int, rounds: int
) -> Iterator[Finding]:
    """All users once, in the buckets a model with this history length gets, against all of them padded to it.

    The engine pads rows to the longest of their part, so those that are to be padded come with their padding.
    """
    catalog = BenchCatalog.build(len(real.item_ids), prepared.config)
    search = GraphSearch(prepared.artifact, threads, catalog.inputs)
    buckets = history_buckets(LENGTH)
    ways = {
        "buckets": batches(real.histories, buckets),
        "padded": batches([padded(history) for history in real.histories], (LENGTH,)),
    }

    def run(closed: list[tuple[int, list[SearchRow]]]) -> None:
        for bucket, rows in closed:
            search.run(rows, Shape(beams, bucket))

    calls = {name: whole(partial(run, closed)) for name, closed in ways.items()}
    times = interleaved(calls, rounds)
    lengths = np.minimum([len(history) for history in real.histories], LENGTH)
    operations = operations_by_length(prepared, catalog, beams)
    yield Finding(
        row="histories",
        what=f"{prepared.name}, operations padded ÷ as long as they are",
        value=operations(LENGTH) / operations(lengths).mean(),
        unit="×",
        detail="of its matrix products: what no padding at all would be worth if they were all there is",
    )
    yield Finding(
        row="histories",
        what=f"{prepared.name}, real histories vs all padded to {LENGTH}",
        value=times.ratio("padded", "buckets"),
        unit="×",
        goal=2.0,
        detail=f"{len(lengths)} users, {lengths.mean():.1f} items on average (newest {LENGTH}), buckets "
        f"{buckets}: {len(lengths) / times.ms('buckets') * 1e3:.0f}/s against "
        f"{len(lengths) / times.ms('padded') * 1e3:.0f}/s",
    )
