"""Sessions, the catalog they read, and batches bound to both: all that lies on a GPU for one model.

Sizes of the catalog are constants in the sessions, so all of it is replaced together when the catalog outgrows them.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.config import ModelConfig
from models.graph import OUTPUTS, Inputs, SearchRow, fill_request_inputs

from .device_memory import Block, Field
from .devices import Signature, bound_session, require_memory, signatures
from .gpu_catalog import ResidentCatalog
from .gpu_shapes import NOT_CAPTURED, BatchShape, GraphIds
from .precision import Graphs

_MOST_UNCAPTURED: Final = 16
"""Buffers kept for shapes that are not captured; those of captured ones stay, as graphs hold their addresses."""


class BoundBatch:
    """The buffers of one shape, bound to a session once; `run` is one copy in, one run, one copy out.

    captures_next  whether the next run captures what later ones replay
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        catalog: Mapping[str, ort.OrtValue],
        shape: BatchShape,
        code_length: int,
        device: str,
        graph_id: int,
    ) -> None:
        self._session, self._shape = session, shape
        self._requests = Block(_request_fields(shape, code_length), device)
        self._answers = Block(_answer_fields(shape, code_length), device)
        self._binding = session.io_binding()
        fed = {**catalog, **self._requests.values}
        for value in session.get_inputs():
            self._binding.bind_ortvalue_input(value.name, fed[value.name])
        for name in OUTPUTS:
            self._binding.bind_ortvalue_output(name, self._answers.values[name])
        self.captures_next = graph_id != NOT_CAPTURED
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph_id))

    def run(self, rows: Sequence[SearchRow], rescore_weight: float) -> tuple[list[NDArray[Any]], float]:
        """Arrays of OUTPUTS, of as many rows as there are, and the seconds from the copy in to the copy out."""
        fill_request_inputs(rows, rescore_weight, self._requests.host)
        started = time.perf_counter()
        self._requests.send()
        self._session.run_with_iobinding(self._binding, self._options)
        self.captures_next = False
        found = self._answers.fetch()
        return [found[name][: len(rows)] for name in OUTPUTS], time.perf_counter() - started


class Residence:
    """One thread runs; another may build or stage meanwhile."""

    def __init__(self, models: Graphs, config: ModelConfig, inputs: Inputs, provider: str, *, graphs: bool) -> None:
        """Raises SearchError, or what ONNX Runtime raises for a broken graph or where memory is short."""
        self._config, self._device = config, require_memory(provider)
        signed = signatures(next(iter(models.values())))  # the same for all widths
        types = {name: signature.type for name, signature in signed.items()}
        self.catalog = ResidentCatalog(inputs, types, config.tokens_per_level, self._device)
        dims = _sizes(signed, self.catalog.values)
        opened = {width: bound_session(model, provider, dims, capture=graphs) for width, model in models.items()}
        self.sessions = {width: session for width, (session, _) in opened.items()}
        self._capturing = frozenset(width for width, (_, captures) in opened.items() if captures)
        self._bound: dict[BatchShape, BoundBatch] = {}
        self._passing: OrderedDict[BatchShape, BoundBatch] = OrderedDict()

    @property
    def captures(self) -> bool:
        """Whether every width runs from captured graphs."""
        return self._capturing == self.sessions.keys()

    def batch(self, shape: BatchShape, ids: GraphIds) -> BoundBatch:
        """The buffers of a shape, made at its first use."""
        if shape in self._bound:
            return self._bound[shape]
        graph_id = ids.of(shape) if shape.width in self._capturing else NOT_CAPTURED
        if graph_id != NOT_CAPTURED:
            self._bound[shape] = self._make(shape, graph_id)
            return self._bound[shape]
        if shape not in self._passing:
            if len(self._passing) >= _MOST_UNCAPTURED:
                self._passing.popitem(last=False)
            self._passing[shape] = self._make(shape, NOT_CAPTURED)
        self._passing.move_to_end(shape)
        return self._passing[shape]

    def _make(self, shape: BatchShape, graph_id: int) -> BoundBatch:
        session = self.sessions[shape.width]
        return BoundBatch(session, self.catalog.values, shape, self._config.code_length, self._device, graph_id)


def _request_fields(shape: BatchShape, code_length: int) -> dict[str, Field]:
    fields = {
        "history": Field(np.int32, (shape.rows, shape.bucket)),
        "slot": Field(np.int32, (shape.rows,)),
        "rescore_weight": Field(np.float32, ()),
    }
    names = [f"{name}_{level}" for level in range(code_length) for name in ("dead_parent", "dead_offset")]
    return fields | dict.fromkeys(names, Field(np.int32, (shape.rows, shape.dead)))


def _answer_fields(shape: BatchShape, code_length: int) -> dict[str, Field]:
    plain = (shape.rows, shape.width)
    return {
        "item": Field(np.int32, plain),
        "score": Field(np.float32, plain),
        "code_score": Field(np.float32, plain),
        "prefix_score": Field(np.float32, (*plain, code_length)),
    }


def _sizes(signed: Mapping[str, Signature], values: Mapping[str, ort.OrtValue]) -> dict[str, int]:
    """Symbolic dimension → its size, of what lies on the device."""
    return {
        dimension: size
        for name, value in values.items()
        for dimension, size in zip(signed[name].dims, value.shape(), strict=True)
        if isinstance(dimension, str)
    }
