"""One cell of the grid: the engine and its peers on the same network, catalog and histories, taking turns."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.network import EncoderDecoderGenerator

from ..errors import BenchError
from .catalogs import BenchCatalog
from .eager import EagerSearch
from .engine import EngineSearch
from .generate import GenerateSearch
from .networks import NETWORKS, Prepared
from .post_filter import CodeIndex, PostFilterSearch
from .timing import Seconds, interleaved, whole

ITEMS: Final = (10_000, 100_000, 1_000_000, 10_000_000)
BEAMS: Final = (20, 50, 128, 256)
BATCHES: Final = (1, 8, 32, 128)
HISTORIES: Final = (5, 20, 50)
SCORE_TOLERANCE: Final = 1e-4
_COMMON: Final = 0.9
_GENERATE_ITEMS: Final = 1_000_000
WANTED: Final = 10  # items


@dataclass(frozen=True)
class Cell:
    """One point of the grid; `history` items a row."""

    network: str
    items: int
    beams: int
    batch: int
    history: int

    @property
    def with_generate(self) -> bool:
        """Hugging Face takes seconds a call, and its dictionary of prefixes gigabytes for ten million items."""
        small = self.beams in (20, 50) and self.batch in (1, 8) and self.items <= _GENERATE_ITEMS
        return small and NETWORKS[self.network].generator == "encoder_decoder"

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


NAMES: Final = tuple(field.name for field in fields(Cell))


def grid() -> list[Cell]:
    """Every cell, ordered so that what is expensive to build is built once."""
    return [
        Cell(network, items, beams, batch, history)
        for network in NETWORKS
        for items in ITEMS
        for history in HISTORIES
        for beams in BEAMS
        for batch in BATCHES
    ]


class Peers:
    """All ways to search one catalog with one network."""

    def __init__(self, prepared: Prepared, catalog: BenchCatalog, threads: int) -> None:
        torch.set_num_threads(threads)
        self._prepared, self._catalog = prepared, catalog
        self.engine = EngineSearch(prepared.artifact, catalog, threads)
        self._eager = EagerSearch(prepared.network, catalog)
        self._index = CodeIndex(catalog.codes)
        self._free: PostFilterSearch | None = None
        self._generate: GenerateSearch | None = None

    @property
    def free(self) -> PostFilterSearch:
        if self._free is None:
            session = self.engine.session(self._prepared.artifact.manifest.beam_widths[0])
            self._free = PostFilterSearch(self._prepared, self._catalog, session)
        return self._free

    @property
    def generate(self) -> GenerateSearch:
        if self._generate is None:
            assert isinstance(self._prepared.network, EncoderDecoderGenerator)
            self._generate = GenerateSearch(self._prepared.network, self._catalog.codes)
        return self._generate

    def eager_answer(self, batch: int, beams: int, history: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(item [B, K], score [B, K])"""
        found = self._eager.run(torch.from_numpy(self._catalog.history(batch, history)), beams)
        return found.item.numpy(), found.score.numpy()

    def generate_answer(self, batch: int, beams: int, history: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(item [B, K], score [B, K])"""
        codes, score = self.generate.run(torch.from_numpy(self._catalog.history(batch, history)), beams)
        return self._index.items(codes).item, score

    def free_answer(self, batch: int, beams: int, history: int) -> dict[str, float]:
        """How much of an unconstrained search is of use."""
        kept = self.free.run(self._catalog.history(batch, history), beams)
        return {"invalid": kept.invalid, f"missing_of_{WANTED}": kept.missing(WANTED)}

    def calls(self, batch: int, beams: int, history: int, names: tuple[str, ...]) -> dict[str, Seconds]:
        """What is timed: from histories to item indices for all of them."""
        shape = (batch, beams, history)
        every: dict[str, Seconds] = {
            "engine": whole(lambda: self.engine.run(*shape)),
            "eager": whole(lambda: self.eager_answer(*shape)),
            "generate": whole(lambda: self.generate_answer(*shape)),
            "free": whole(lambda: self.free_answer(*shape)),
        }
        return {name: every[name] for name in ("engine", *names)}

    def prove(self, batch: int, beams: int, history: int, names: tuple[str, ...]) -> int:
        """Raises BenchError unless the peers named answer as the engine does; returns rows that differ at an edge."""
        found, edges = self.engine.run(batch, beams, history), 0
        for name in names:
            answer = self.eager_answer if name == "eager" else self.generate_answer
            edges += differing_rows(found.item, found.score, *answer(batch, beams, history))
        return edges


def measure(cell: Cell, peers: Peers, rounds: int, budget_s: float) -> dict[str, Any]:
    """A row of the results; raises BenchError when a peer found something else."""
    shape = (cell.batch, cell.beams, cell.history)
    equal: tuple[str, ...] = ("eager", "generate") if cell.with_generate else ("eager",)
    edges = peers.prove(*shape, equal)
    times = interleaved(peers.calls(*shape, (*equal, "free")), rounds, budget_s)
    row: dict[str, Any] = {f"{name}_ms": times.ms(name) for name in times.rounds}
    row |= {f"{name}_ratio": times.ratio(name, "engine") for name in times.rounds if name != "engine"}
    return row | peers.free_answer(*shape) | {"rounds": len(times.rounds["engine"]), "rows_at_an_edge": edges}


def differing_rows(
    item: NDArray[Any], score: NDArray[np.float32], other_item: NDArray[Any], other_score: NDArray[np.float32]
) -> int:
    """Rows [B, K] whose items are not the same, though nearly: float rounding decided at some beam's edge.

    Raises BenchError where it cannot be that: a common item's scores are farther apart than 1e-4, or fewer than nine in
    ten items are common.
    """
    differing = 0
    for row in range(len(item)):
        ours = dict(zip(item[row].tolist(), score[row].tolist(), strict=True))
        theirs = dict(zip(other_item[row].tolist(), other_score[row].tolist(), strict=True))
        common = (ours.keys() & theirs.keys()) - {-1}
        gap = max((abs(ours[name] - theirs[name]) for name in common), default=0.0)
        if gap > SCORE_TOLERANCE:
            raise BenchError(f"row {row}: scores of one item lie {gap:.1e} apart")
        if len(common) < _COMMON * len(ours.keys() - {-1}):
            raise BenchError(f"row {row}: only {len(common)} of {len(ours)} items are common")
        differing += ours.keys() != theirs.keys()
    return differing


def load_peers(prepared: Prepared, items: int, threads: int) -> Peers:
    """The peers over a random catalog of that many items."""
    return Peers(prepared, BenchCatalog.build(items, prepared.config), threads)
