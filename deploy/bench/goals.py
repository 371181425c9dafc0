"""The rows of `make bench`: each measures one claim about the engine and says what was wanted.

Every row is a function of a `Bench`, which keeps what several rows need.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact

from .catalogs import BenchCatalog
from .cells import Peers
from .engine import EngineSearch
from .findings import Finding
from .histories import RealHistories, padding_findings
from .networks import NETWORKS, Prepared, prepare
from .precision import speed_findings, trained_findings
from .roofline import Roofline, roofline
from .timing import Seconds, Times, interleaved, whole
from .trained import free_search_findings, random_history_findings
from .tries import trie_findings

ITEMS: Final = 10_000
BEAMS: Final = 20
HISTORY: Final = 20
_MANY_ITEMS: Final = 10_000_000
_SIZES: Final = (ITEMS, 1_000_000, _MANY_ITEMS)


@dataclass
class Bench:
    """Where things are, how long to measure, and what was loaded already.

    histories  of real users; None: rows that want them are left out
    trained    an artifact, trained on the users of `trained_on`; None likewise
    """

    work: Path
    threads: int
    rounds: int
    histories: RealHistories | None = None
    trained: Artifact | None = None
    trained_on: RealHistories | None = None
    _prepared: dict[str, Prepared] = field(default_factory=dict)
    _catalogs: dict[int, BenchCatalog] = field(default_factory=dict)

    def prepared(self, network: str) -> Prepared:
        if network not in self._prepared:
            self._prepared[network] = prepare(network, self.work)
        return self._prepared[network]

    def catalog(self, items: int) -> BenchCatalog:
        """One for all networks: their codes and tables have the same sizes."""
        if items not in self._catalogs:
            self._catalogs[items] = BenchCatalog.build(items, NETWORKS["temporal"])
        return self._catalogs[items]

    def peers(self, network: str) -> Peers:
        return Peers(self.prepared(network), self.catalog(ITEMS), self.threads)

    def engine(self, network: str, items: int = ITEMS) -> EngineSearch:
        return EngineSearch(self.prepared(network).artifact, self.catalog(items), self.threads)

    def known_histories(self) -> tuple[Artifact, list[NDArray[np.int32]]] | None:
        """The trained artifact and real histories as its item indices; None without one of them."""
        artifact, real = self.trained, self.trained_on
        if artifact is None or real is None:
            return None
        found = (artifact.item_ids.indices([real.item_ids[item] for item in h.tolist()]) for h in real.histories)
        known = [history[history >= 0] for history in found]
        return artifact, [history for history in known if len(history)]

    def roofline(self, network: str, batch: int) -> Roofline:
        return roofline(self.prepared(network), self.catalog(ITEMS), BEAMS, batch, HISTORY, self.threads, self.rounds)


def against_generate(bench: Bench) -> Iterator[Finding]:
    peers = bench.peers("encoder_decoder")
    for batch, goal in ((1, 150.0), (8, 60.0)):
        peers.prove(batch, BEAMS, HISTORY, ("generate",))
        times = interleaved(peers.calls(batch, BEAMS, HISTORY, ("generate",)), bench.rounds)
        yield _ratio(times, "generate", "engine", "generate", f"encoder–decoder vs generate, batch {batch}", goal)


def against_eager(bench: Bench) -> Iterator[Finding]:
    for network in NETWORKS:
        peers = bench.peers(network)
        for batch, goal in ((1, 2.5), (32, 1.6)):
            peers.prove(batch, BEAMS, HISTORY, ("eager",))
            times = interleaved(peers.calls(batch, BEAMS, HISTORY, ("eager",)), bench.rounds)
            yield _ratio(times, "eager", "engine", "eager", f"{network} vs eager torch, batch {batch}", goal)


def networks(bench: Bench) -> Iterator[Finding]:
    engines = {name: bench.engine(name) for name in NETWORKS}
    for batch, goal in ((1, 4.5), (128, 9.0)):
        calls = {name: _call(engine, batch) for name, engine in engines.items()}
        times = interleaved(calls, bench.rounds)
        for fast in ("temporal", "small"):
            what = f"{fast} vs encoder–decoder, batch {batch}"
            yield _ratio(times, "encoder_decoder", fast, "networks", what, goal)


def against_products(bench: Bench) -> Iterator[Finding]:
    for network, goal in (("encoder_decoder", 1.25), ("temporal", 1.6), ("small", 1.6)):
        for batch in (1, 32):
            found = bench.roofline(network, batch)
            yield Finding(
                row="roofline",
                what=f"{network} graph ÷ its matrix products, batch {batch}",
                value=found.graph_to_products,
                unit="×",
                goal=goal if batch == 32 else None,
                at_most=True,
                detail=f"{found.graph_ms:.2f} / {found.products_ms:.2f} ms; trie and selection "
                f"{found.trie_and_selection_ms_a_step:.3f} ms a step",
            )


def without_trie(bench: Bench) -> Iterator[Finding]:
    peers = bench.peers("encoder_decoder")
    times = interleaved(peers.calls(32, BEAMS, HISTORY, ("free",)), bench.rounds)
    yield _ratio(times, "free", "engine", "free", "encoder–decoder vs free search + post-filter, batch 32", None)
    if known := bench.known_histories():
        yield from free_search_findings(*known, BEAMS, bench.threads)


def in_8_bits(bench: Bench) -> Iterator[Finding]:
    for network in NETWORKS:
        prepared, catalog = bench.prepared(network), bench.catalog(ITEMS)
        yield from speed_findings(prepared, catalog, BEAMS, HISTORY, bench.threads, bench.rounds)
    if known := bench.known_histories():
        yield from trained_findings(*known, bench.threads, bench.rounds)


def real_histories(bench: Bench) -> Iterator[Finding]:
    if bench.histories is not None:
        network = bench.prepared("encoder_decoder")
        yield from padding_findings(network, bench.histories, BEAMS, bench.threads, bench.rounds)


def many_items(bench: Bench) -> Iterator[Finding]:
    for network in NETWORKS:
        sizes = {"few": ITEMS, "many": _MANY_ITEMS}
        engines = {name: bench.engine(network, items) for name, items in sizes.items()}
        for batch in (1, 32):
            calls = {name: _call(engine, batch) for name, engine in engines.items()}
            times = interleaved(calls, bench.rounds)
            what = f"{network}, 10 million items vs 10 thousand, batch {batch}"
            yield _ratio(times, "many", "few", "items", what, 1.15, at_most=True)


def open_beams(bench: Bench) -> Iterator[Finding]:
    """What it is worth to leave the network out for beams that are decided, by how many items there are."""
    shapes = [(ITEMS, BEAMS, 1), *((items, beams, 32) for items in _SIZES for beams in (BEAMS, 50))]
    for network in NETWORKS:
        artifact = bench.prepared(network).artifact
        whole_graphs = {beams: artifact.graph_path(beams) for beams in (BEAMS, 50)}
        for items, beams, batch in shapes:
            engines = {
                "every": EngineSearch(artifact, bench.catalog(items), bench.threads, whole_graphs),
                "open": bench.engine(network, items),
            }
            calls = {name: _call(engine, batch, beams) for name, engine in engines.items()}
            times = interleaved(calls, bench.rounds)
            what = f"{network}, network for open beams alone, {items} items, beam {beams}, batch {batch}"
            yield _ratio(times, "every", "open", "open", what, None)


def trained_model(bench: Bench) -> Iterator[Finding]:
    if bench.trained is not None:
        yield from random_history_findings(bench.trained, bench.threads)


def tries(_: Bench) -> Iterator[Finding]:
    for items in _SIZES[1:]:
        yield from trie_findings(items)


ROWS: Final[dict[str, Callable[[Bench], Iterator[Finding]]]] = {
    "generate": against_generate,
    "networks": networks,
    "eager": against_eager,
    "roofline": against_products,
    "free": without_trie,
    "precision": in_8_bits,
    "histories": real_histories,
    "items": many_items,
    "open": open_beams,
    "trained": trained_model,
    "trie": tries,
}


def _call(engine: EngineSearch, batch: int, beams: int = BEAMS) -> Seconds:
    return whole(lambda: engine.run(batch, beams, HISTORY))


def _ratio(
    times: Times, slow: str, fast: str, row: str, what: str, goal: float | None, *, at_most: bool = False
) -> Finding:
    ratios = times.ratios(slow, fast)
    detail = (
        f"{times.ms(slow):.2f} / {times.ms(fast):.2f} ms, {min(ratios):.3g}–{max(ratios):.3g} in {len(ratios)} rounds"
    )
    return Finding(row, what, times.ratio(slow, fast), "×", goal, at_most=at_most, detail=detail)
