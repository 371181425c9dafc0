"""What a search is asked and what it finds, and the exported search graphs on the CPU.

What does not change between requests (trie, item tables) is handed to ONNX Runtime as `OrtValue`s: the memory-mapped
files themselves. The search on a GPU is in `gpu_search`.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.artifact import Artifact
from models.graph import OUTPUTS, Inputs, SearchRow, catalog_inputs, request_inputs
from service.machine import usable_cores

from .devices import CPU, cpu_session
from .parts import PartThreads, split_by_length
from .precision import Graphs, graphs_of

SPARE_DEAD: Final = 64
"""Dead states a level that every row may bring; longer lists come in classes of their own."""
_DEAD_STEP: Final = 8

_Outputs = tuple[list[NDArray[Any]], float]  # OUTPUTS, and the seconds inside the graph
_PartOutputs = tuple[list[NDArray[Any]], float, int]  # and the thread that ran it


@dataclass(frozen=True)
class Shape:
    """What rows must have in common to share a batch.

    width    K, beams; one of the artifact's beam widths
    bucket   T, length histories are padded to
    dead     the longest list of dead states a row may bring, on any level
    rescore  whether the item score is added, one scalar for a whole batch
    alone    keep the row out of everybody else's batch
    """

    width: int
    bucket: int
    dead: int = SPARE_DEAD
    rescore: bool = True
    alone: bool = False

    def most_rows(self, limit: int) -> int:
        """Rows of this shape one batch may hold, at most `limit`.

        Every row compares K beams with all its dead states. Rows with thousands of them come in smaller batches, and
        never make others pay for their padding.
        """
        return 1 if self.alone else max(1, limit * SPARE_DEAD // self.dead)


def dead_class(row: SearchRow) -> int:
    """The class of `Shape.dead` that holds the row: 64, 512, 4096, …"""
    longest = max((states.parent.size for states in row.dead), default=0)
    size = SPARE_DEAD
    while size < longest:
        size *= _DEAD_STEP
    return size


@dataclass(frozen=True)
class Found:
    """What a batch found, best first.

    item        int32 [B, K] item indices, -1 where no legal leaf is left
    score       float32 [B, K], what the order follows
    code_score  float32 [B, K], log-probability of the code
    prefix_score  float32 [B, K, L], log-probability of its first 1 … L tokens
    legal       bool [B, K], False for an item that the row's filter slot does not allow: a defect
    run_s       seconds inside the graph; of a batch in parts those of the thread that was there for longest
    """

    item: NDArray[np.int32]
    score: NDArray[np.float32]
    code_score: NDArray[np.float32]
    prefix_score: NDArray[np.float32]
    legal: NDArray[np.bool_]
    run_s: float


class Search(Protocol):
    """Anything that searches for a batch of rows of one shape."""

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> Found:
        """Blocks until the batch is done; raises whatever its runtime raises."""
        ...


class CatalogSearch(Search, Protocol):
    """A search that is told of changes of the catalog.

    provider   ONNX Runtime's name of the device
    warm_rows  ascending sizes of batches whose first run takes longer than later ones
    """

    provider: str
    warm_rows: tuple[int, ...]

    def bind(self, inputs: Inputs) -> Callable[[], None]:
        """Brings inputs of the catalog to the device, from any thread; what is returned puts them in use."""
        ...

    def send_slots(self, counts: Sequence[NDArray[np.int32]], slots: Sequence[int]) -> None:
        """Makes the device see rows of `alive_l` that were written in place: `slots` of int32 [F, S_{l+1}] a level."""
        ...

    def send_rows(self, tables: Inputs, rows: Sequence[int]) -> None:
        """Makes the device see rows of tables that were written in place, which no search may be reading now."""
        ...


class GraphSearch:
    """The search graphs of one artifact on the CPU. `run` belongs to one thread at a time."""

    provider: str = CPU
    warm_rows: tuple[int, ...] = (1,)

    def __init__(
        self, artifact: Artifact, threads: int, catalog: Inputs | None = None, graphs: Graphs | None = None
    ) -> None:
        """Loads every graph; a batch is searched in parts, on `threads` cores, 0: all of them.

        The threads are started here, and so have the priority of the one that builds the sessions.

        `catalog` is what `bind` is given; None: the catalog as the artifact has it. `graphs` likewise.
        """
        self._code_length = artifact.manifest.config.code_length
        self._rescore_weight = artifact.manifest.rescore_weight
        self._threads = threads or usable_cores()
        graphs = graphs_of(artifact, "fp32", CPU) if graphs is None else graphs
        self._sessions = {width: cpu_session(graph) for width, graph in graphs.items()}
        self._parts = PartThreads[_PartOutputs](self._threads - 1)
        self._catalog: dict[str, ort.OrtValue] = {}
        self.bind(catalog_inputs(artifact) if catalog is None else catalog)()
        self._wanted = {width: _input_names(session) for width, session in self._sessions.items()}

    def bind(self, inputs: Inputs) -> Callable[[], None]:
        """The arrays themselves are used, so what is written into them later counts without another `bind`."""
        values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}

        def use() -> None:
            self._catalog = self._catalog | values

        return use

    def send_slots(self, counts: Sequence[NDArray[np.int32]], slots: Sequence[int]) -> None:
        """Searches read the very arrays."""

    def send_rows(self, tables: Inputs, rows: Sequence[int]) -> None:
        """Searches read the very arrays."""

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> Found:
        places = split_by_length(rows, self._threads)
        parts = self._parts.run([partial(self._part, [rows[place] for place in part], shape) for part in places])
        outputs = [np.concatenate(arrays) for arrays in zip(*(part for part, _, _ in parts), strict=True)]
        back = np.argsort(np.concatenate(places))
        inside_s: defaultdict[int, float] = defaultdict(float)  # a thread runs several parts where there are more
        for _, run_s, thread in parts:
            inside_s[thread] += run_s
        return found([array[back] for array in outputs], max(inside_s.values()))

    def _part(self, rows: Sequence[SearchRow], shape: Shape) -> _PartOutputs:
        """On the CPU another length costs nothing, so histories are padded to the longest of the part only."""
        longest = max(len(row.history) for row in rows)
        return *self._search(rows, max(1, min(longest, shape.bucket)), shape), threading.get_ident()

    def _search(self, rows: Sequence[SearchRow], length: int, shape: Shape) -> _Outputs:
        weight = self._rescore_weight if shape.rescore else 0.0
        inputs = request_inputs(rows, length, self._code_length, weight)
        fed = {name: _on_cpu(array) for name, array in inputs.items()}
        wanted = self._wanted[shape.width]
        feed = {name: value for name, value in (self._catalog | fed).items() if name in wanted}
        started = time.perf_counter()
        outputs = self._sessions[shape.width].run_with_ort_values(list(OUTPUTS), feed)
        arrays = [output.numpy() for output in outputs]
        return arrays, time.perf_counter() - started


def found(outputs: Sequence[NDArray[Any]], run_s: float) -> Found:
    """The arrays of OUTPUTS; whoever knows the filters says what is legal."""
    item, score, code_score, prefix_score = outputs
    return Found(item, score, code_score, prefix_score, np.ones(item.shape, dtype=np.bool_), run_s)


def _input_names(session: ort.InferenceSession) -> frozenset[str]:
    """The exporter drops inputs the graph does not use, and ONNX Runtime refuses to be given more."""
    return frozenset(value.name for value in session.get_inputs())


def _on_cpu(array: NDArray[Any]) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array))
