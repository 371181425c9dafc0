"""How far the graph is from its matrix products, and what trie and selection cost.

Four things take turns on the same runtime with the same options: the engine's own `run`, its products alone
(`products`), the graph that asks the network about every beam, decided or not, and the network of that one without trie
and selection (`variants`). Trie and selection are the difference between the last two: softmax, walk, masks, TopK, item
score, divided by the number of steps.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from models.graph import Inputs

from .catalogs import BenchCatalog
from .engine import EngineSearch
from .gpu_folder import random_choices
from .networks import Prepared
from .products import bound_run, products_of
from .timing import Seconds, interleaved, whole
from .variants import NetworkOnly, open_like, table_name


@dataclass(frozen=True)
class Roofline:
    """One shape, measured. Times in milliseconds a batch, medians; ratio of pairs, its median."""

    network: str
    items: int
    beams: int
    batch: int
    history: int
    threads: int
    graph_ms: float
    products_ms: float
    network_ms: float
    products: int
    products_gflop: float
    graph_to_products: float
    network_to_products: float
    trie_and_selection_ms_a_step: float

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def roofline(
    prepared: Prepared, catalog: BenchCatalog, beams: int, batch: int, history: int, threads: int, rounds: int
) -> Roofline:
    """Measures one shape; raises BenchError when the products cannot be separated."""
    artifact = prepared.artifact
    engine = EngineSearch(artifact, catalog, threads)
    session, feed = engine.session(beams), engine.feed(batch, beams, history)
    products = products_of(session, artifact.cpu_graph_path(beams), feed)
    alone, binding = bound_run(products, session)
    every_beam = open_like(artifact.graph_path(beams), session)
    times = interleaved(
        {
            "graph": _graph_call(session, feed),
            "every beam": _graph_call(every_beam, feed),
            "products": whole(lambda: alone.run_with_iobinding(binding)),
            "network": _network_call(prepared, session, feed, batch, beams),
        },
        rounds,
    )
    graph_ms, network_ms = times.ms("graph"), times.ms("network")
    return Roofline(
        network=prepared.name,
        items=catalog.codes.item_count,
        beams=beams,
        batch=batch,
        history=history,
        threads=threads,
        graph_ms=graph_ms,
        products_ms=times.ms("products"),
        network_ms=network_ms,
        products=products.count,
        products_gflop=products.flops / 1e9,
        graph_to_products=times.ratio("graph", "products"),
        network_to_products=times.ratio("network", "products"),
        trie_and_selection_ms_a_step=(times.ms("every beam") - network_ms) / artifact.manifest.config.code_length,
    )


def _graph_call(session: ort.InferenceSession, feed: Inputs) -> Seconds:
    """The whole batch in one call, on the one thread that the products have too: the engine would cut it into parts."""
    wanted = {value.name for value in session.get_inputs()}
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.asarray(feed[name])) for name in wanted}
    outputs = [value.name for value in session.get_outputs()]
    return whole(lambda: session.run_with_ort_values(outputs, values))


def _network_call(prepared: Prepared, like: ort.InferenceSession, feed: Inputs, batch: int, beams: int) -> Seconds:
    variant = NetworkOnly(prepared.network)
    session = open_like(prepared.variant("network_only", variant.export).SerializeToString(), like)
    names = ("history", table_name(prepared.network))
    arrays = {name: feed[name] for name in names} | random_choices(prepared.network.config, batch, beams)
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    outputs = [value.name for value in session.get_outputs()]
    return whole(lambda: session.run_with_ort_values(outputs, values))
