"""The exported search graphs on a device: one session per beam width, the catalog bound once.

What does not change between requests (trie, item tables) is handed to ONNX Runtime as `OrtValue`s: on the CPU they are
the memory-mapped files themselves, on a GPU they are copied over once.
"""

import ctypes
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.artifact import Artifact
from models.graph import OUTPUTS, Inputs, SearchRow, catalog_inputs, request_inputs

from .parts import PartThreads, physical_cores, split_by_length
from .precision import Graphs, graphs_of

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_ORT_ERROR: Final = 3  # severity below which ONNX Runtime keeps quiet on stderr
_SPARE_DEAD: Final = 64
_DEAD_STEP: Final = 8

logger = logging.getLogger(__name__)

_Outputs = tuple[list[NDArray[Any]], float]  # OUTPUTS, and the seconds inside the graph


class SearchError(Exception):
    """The search cannot run on the wanted device."""


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
    dead: int = _SPARE_DEAD
    rescore: bool = True
    alone: bool = False

    def most_rows(self, limit: int) -> int:
        """Rows of this shape one batch may hold, at most `limit`.

        Every row compares K beams with all its dead states. Rows with thousands of them come in smaller batches, and
        never make others pay for their padding.
        """
        return 1 if self.alone else max(1, limit * _SPARE_DEAD // self.dead)


def dead_class(row: SearchRow) -> int:
    """The class of `Shape.dead` that holds the row: 64, 512, 4096, …"""
    longest = max((states.parent.size for states in row.dead), default=0)
    size = _SPARE_DEAD
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
    run_s       seconds inside the graph; of a batch in parts those of the slowest
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


class GraphSearch:
    """The search graphs of one artifact. `run` belongs to one thread at a time."""

    def __init__(
        self,
        artifact: Artifact,
        provider: Literal["auto", "cpu", "cuda"],
        threads: int,
        catalog: Inputs | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        """Loads every graph; on the CPU a batch is searched in parts, on `threads` cores, 0: all of them.

        The threads are started here, and so have the priority of the one that builds the sessions.

        `catalog` is what `bind` is given; None: the catalog as the artifact has it. `graphs` likewise.

        Raises SearchError when `provider` is "cuda" and there is no GPU that works.
        """
        first_choice = _choose_provider(provider)
        self._code_length = artifact.manifest.config.code_length
        self._rescore_weight = artifact.manifest.rescore_weight
        self._threads = threads or physical_cores()
        graphs = graphs_of(artifact, "fp32") if graphs is None else graphs
        self._sessions = {width: _session(graph, first_choice) for width, graph in graphs.items()}
        self.provider = self._actual_provider(required=CUDA if provider == "cuda" else None)
        self._parts = PartThreads[_Outputs](self._threads - 1 if self.shares_memory else 0)
        self._catalog: dict[str, ort.OrtValue] = {}
        self.bind(catalog_inputs(artifact) if catalog is None else catalog)()
        self._wanted = {width: _input_names(session) for width, session in self._sessions.items()}

    def bind(self, inputs: Inputs) -> Callable[[], None]:
        """Brings inputs of the catalog to the device, from any thread; what is returned puts them in use.

        On the CPU the arrays themselves are used, so what is written into them later counts without another `bind`.
        """
        device = "cuda" if self.provider == CUDA else "cpu"
        values = {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
            for name, array in inputs.items()
        }

        def use() -> None:
            self._catalog = self._catalog | values

        return use

    @property
    def shares_memory(self) -> bool:
        """Whether the device reads the arrays it was given, and no copies."""
        return self.provider != CUDA

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> Found:
        if not self.shares_memory:
            outputs, run_s = self._search(rows, shape.bucket, shape)
            return _found(outputs, run_s)
        places = split_by_length(rows, self._threads)
        parts = self._parts.run([partial(self._part, [rows[place] for place in part], shape) for part in places])
        outputs = [np.concatenate(arrays) for arrays in zip(*(part for part, _ in parts), strict=True)]
        back = np.argsort(np.concatenate(places))
        return _found([array[back] for array in outputs], max(run_s for _, run_s in parts))

    def _part(self, rows: Sequence[SearchRow], shape: Shape) -> _Outputs:
        """On the CPU another length costs nothing, so histories are padded to the longest of the part only."""
        longest = max(len(row.history) for row in rows)
        return self._search(rows, max(1, min(longest, shape.bucket)), shape)

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

    def _actual_provider(self, required: str | None) -> str:
        """ONNX Runtime falls back to the CPU without raising when a CUDA library is missing."""
        actual: str = next(iter(self._sessions.values())).get_providers()[0]
        if required not in (None, actual):
            raise SearchError(f"ONNX Runtime could not use {required} and fell back to {actual}")
        logger.info("searching with %s", actual)
        return actual


def _found(outputs: list[NDArray[Any]], run_s: float) -> Found:
    item, score, code_score, prefix_score = outputs
    return Found(item, score, code_score, prefix_score, np.ones(item.shape, dtype=np.bool_), run_s)


def _input_names(session: ort.InferenceSession) -> frozenset[str]:
    """The exporter drops inputs the graph does not use, and ONNX Runtime refuses to be given more."""
    return frozenset(value.name for value in session.get_inputs())


def _on_cpu(array: NDArray[Any]) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array))


def _session(graph: Path | bytes, provider: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ORT_ERROR
    # A batch runs in parts on threads of this process, so the runtime needs none of its own.
    options.intra_op_num_threads = 1
    # TF32 drops mantissa bits, and scores would no longer be those the artifact was proved with.
    providers = [(CUDA, {"use_tf32": "0"}), CPU] if provider == CUDA else [CPU]
    return ort.InferenceSession(graph, options, providers=providers)


def _choose_provider(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    ort.set_default_logger_severity(_ORT_ERROR)
    if wanted == "cpu":
        return CPU
    if CUDA in ort.get_available_providers() and _gpu_count():
        ort.preload_dlls()
        return CUDA
    if wanted == "cuda":
        raise SearchError(
            "provider is cuda, but this machine has no CUDA device or ONNX Runtime was built without CUDA"
        )
    return CPU


def _gpu_count() -> int:
    """Devices the CUDA driver sees. ONNX Runtime lists its CUDA provider also where there is no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
