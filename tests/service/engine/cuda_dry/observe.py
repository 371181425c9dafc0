"""`python -m tests.service.engine.cuda_dry.observe LIBRARY ARTIFACT PRECISION`: prints what ONNX Runtime does, as JSON.

To be run with LD_LIBRARY_PATH naming the folder of the libraries that `build` made.
"""

import ctypes
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from models.artifact import Artifact
from models.graph import SearchRow, catalog_inputs
from service.engine.devices import CUDA, bound_session, placement
from service.engine.gpu_search import GpuSearch
from service.engine.half_precision import half_precision
from service.engine.search import Shape


class Counters:
    """The counters of the dry runtime."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)

    def read(self) -> dict[str, int]:
        kinds = ctypes.c_long * 4
        copies = kinds.in_dll(self._library, "dry_copies")
        captured = kinds.in_dll(self._library, "dry_copies_captured")
        found = {"to_device": copies[1], "from_device": copies[2], "host_copies_captured": captured[1] + captured[2]}
        for name in ("launches", "captures", "replays", "waits_captured", "disturbed"):
            found[name] = ctypes.c_long.in_dll(self._library, f"dry_{name}").value
        return found

    def during(self, call: Callable[[], object]) -> dict[str, int]:
        before = self.read()
        call()
        return {name: value - before[name] for name, value in self.read().items()}


def uncapturable() -> dict[str, Any]:
    """A graph with a node the CUDA provider has no kernel for."""
    value = [helper.make_tensor_value_info(name, kind, [2]) for name, kind in (("x", 6), ("y", 7))]
    node = helper.make_node("ArgMax", ["x"], ["y"], axis=0, keepdims=1)
    value[1].type.tensor_type.shape.dim[0].dim_value = 1
    graph = helper.make_graph([node], "argmax", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session, captures = bound_session(model.SerializeToString(), CUDA, {}, capture=True)
    return {"captures": captures, "placement": placement(session)}


def crowded(artifact: Artifact, counters: Counters) -> dict[str, int]:
    """Shapes captured one after the other while another thread brings filters to the device."""
    search, counts = GpuSearch(artifact, provider=CUDA, max_rows=64), artifact.trie.leaf_counts
    ended = threading.Event()

    def bring() -> None:
        while not ended.is_set():
            search.send_slots([array[None] for array in counts], [0])

    other = threading.Thread(target=bring)
    other.start()
    row, width = SearchRow(np.array([1], dtype=np.int32)), artifact.manifest.beam_widths[0]
    shapes = [(rows, Shape(width, bucket)) for bucket in artifact.manifest.history_buckets for rows in search.warm_rows]
    seen = counters.during(lambda: [search.run([row] * rows, shape) for rows, shape in shapes])
    ended.set()
    other.join()
    return {**seen, "shapes": len(shapes)}


def observe(artifact: Artifact, counters: Counters, precision: str) -> dict[str, Any]:
    models = None
    if precision == "fp16":
        models = {width: half_precision(artifact.graph_path(width)) for width in artifact.manifest.beam_widths}
    search = GpuSearch(artifact, models=models, provider=CUDA, max_rows=4)
    sessions = search.residence.sessions
    rows = [SearchRow(np.array([1, 2], dtype=np.int32))] * 3
    width, bucket = artifact.manifest.beam_widths[0], artifact.manifest.history_buckets[0]

    def run(count: int, dead: int = 64) -> dict[str, int]:
        return counters.during(lambda: search.run(rows[:count], Shape(width, bucket, dead)))

    catalog = catalog_inputs(artifact)
    larger = {name: np.concatenate([array] * 200, -1) for name, array in catalog.items() if name == "leaf_item"}
    return {
        "uncapturable": uncapturable(),
        "crowded": crowded(artifact, counters),
        "captures": search.residence.captures,
        "placement": {str(width): placement(session) for width, session in sessions.items()},
        "first": run(3),
        "second": run(3),
        "other shape": run(1),
        "first again": run(2 + 1),
        "long dead lists": run(3, dead=512),
        "bind": counters.during(search.bind(catalog)),
        "after bind": run(3),
        "outgrown": counters.during(search.bind(larger)),
        "after outgrown": run(3),
    }


if __name__ == "__main__":
    library, folder, precision = sys.argv[1:]
    print(json.dumps(observe(Artifact.open(Path(folder)), Counters(library), precision)))
