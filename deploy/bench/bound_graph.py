"""Any graph on a device at fixed shapes, everything bound: what its run costs without copies, captured if it can be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.devices import bound_session, require_memory, signatures

_UNCAPTURED, _CAPTURED = "-1", "1"


class BoundGraph:
    """`run` belongs to one thread."""

    def __init__(self, graph: Path, feed: Mapping[str, NDArray[Any]], provider: str) -> None:
        """`feed` may hold more than the graph wants. Raises SearchError, or what ONNX Runtime raises."""
        self._device = require_memory(provider)
        signed = signatures(graph)
        dims = {
            name: size
            for key, signature in signed.items()
            for name, size in zip(signature.dims, feed[key].shape, strict=True)
            if isinstance(name, str)
        }
        self._session, self.captures = bound_session(graph, provider, dims, capture=True)
        self._kept = {name: self._brought(feed[name]) for name in signed}
        self._binding = self._session.io_binding()
        for name, value in self._kept.items():
            self._binding.bind_ortvalue_input(name, value)
        self._bind_outputs()
        self._options = _options(_CAPTURED if self.captures else _UNCAPTURED)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)

    def _bind_outputs(self) -> None:
        """To what the first run has allocated: a captured graph wants fixed addresses."""
        names = [value.name for value in self._session.get_outputs()]
        for name in names:
            self._binding.bind_output(name, self._device)
        self._session.run_with_iobinding(self._binding, _options(_UNCAPTURED))
        self._results = self._binding.get_outputs()
        for name, value in zip(names, self._results, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def _brought(self, array: NDArray[Any]) -> ort.OrtValue:
        value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype.type, self._device, 0)
        value.update_inplace(np.asarray(array))
        return value


def _options(graph_id: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph_id)
    return options
