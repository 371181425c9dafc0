"""A search graph whose products with weights are computed in 8 bits, made from the one that an artifact has.

Every MatMul and Gemm whose right operand is a weight becomes one product of bytes. Weights have a scale a column, what
comes in has one scale a product, taken once from what a few searches show. A scale taken from each batch would need no
such searches, but then an answer would depend on whose requests share the batch. Attention, normalisation, softmax,
trie and item score stay in float32. A CPU without VNNI adds two products of bytes in 16 bits, where large ones
overflow; there weights have 7 bits, as ONNX Runtime's own tool offers it.

Needs the package `onnx`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.graph import Inputs

_DOMAIN: Final = "com.microsoft"  # of the product of bytes with a result in floats
_HEADROOM: Final = 1.2  # of what is seen: a few searches do not show the farthest values
_STEPS: Final = 255
_WEIGHT_STEPS: Final = 127
_FEWER_WEIGHT_STEPS: Final = 63  # 2 · 255 · 63 fits into 16 bits
_LEAST: Final = 1e-12  # a scale is never 0, also where all that was seen is


@dataclass(frozen=True)
class Span:
    """From the lowest to the highest value seen, 0 among them."""

    low: float = 0.0
    high: float = 0.0

    def with_values(self, low: float, high: float) -> "Span":
        return Span(min(self.low, low), max(self.high, high))

    @property
    def scale(self) -> float:
        """The value of one step of a byte."""
        return max(_HEADROOM * (self.high - self.low) / _STEPS, _LEAST)

    @property
    def zero(self) -> int:
        """The byte that stands for 0.0."""
        return round(-_HEADROOM * self.low / self.scale)


def in_8_bits(path: Path, searches: Iterable[Inputs]) -> bytes:
    """The graph at `path`, converted, as one ONNX file with its weights inside.

    searches  what the graph is fed, once for each search whose values decide the scales; inputs that the graph does not
              have are ignored
    """
    model = onnx.load(path)
    # Shapes of what the exporter knew would contradict what replaces it; the runtime works them out anew.
    del model.graph.value_info[:]
    spans = _observe(model, searches)
    _Conversion(model.graph, spans).convert()
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    converted: bytes = model.SerializeToString()
    return converted


def _weights(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _is_product(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether it multiplies by a weight, and, of a Gemm, does nothing but that and adding a bias."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[0] in weights or node.input[1] not in weights:
        return False
    attributes = _attributes(node)
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    return plain and len(weights[node.input[1]].dims) == 2


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _observe(model: onnx.ModelProto, searches: Iterable[Inputs]) -> dict[str, Span]:
    """Runs the searches in float32: what each product reads, by its name."""
    weights = _weights(model.graph)
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if _is_product(node, weights)))
    session = _session(_probe(model, names))
    known = {value.name for value in session.get_inputs()}
    spans = dict.fromkeys(names, Span())
    for search in searches:
        found = session.run(None, {name: array for name, array in search.items() if name in known})
        for name, low, high in zip(names, found[::2], found[1::2], strict=True):
            spans[name] = spans[name].with_values(float(low), float(high))
    return spans


def _probe(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The same graph, which returns the lowest and the highest of the values named and nothing else."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in names:
        for operator in ("ReduceMin", "ReduceMax"):
            result = f"{name}/{operator}"
            probe.graph.node.append(helper.make_node(operator, [name], [result], keepdims=0))
            probe.graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, []))
    return probe


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def products_overflow() -> bool:
    """Whether this machine's product of bytes is wrong for the largest ones; found by computing it."""
    size = 64
    weight = numpy_helper.from_array(np.full((size, size), _WEIGHT_STEPS, dtype=np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["bytes", "weight"], ["sums"])],
        "overflow",
        [helper.make_tensor_value_info("bytes", onnx.TensorProto.UINT8, [size, size])],
        [helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, [size, size])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (sums,) = _session(model).run(None, {"bytes": np.full((size, size), _STEPS, dtype=np.uint8)})
    return bool((sums != size * _STEPS * _WEIGHT_STEPS).any())


class _Conversion:
    """Rewrites a graph in place; what several products share is converted once."""

    def __init__(self, graph: onnx.GraphProto, spans: Mapping[str, Span]) -> None:
        self._graph = graph
        self._spans = spans
        self._weight_steps = _FEWER_WEIGHT_STEPS if products_overflow() else _WEIGHT_STEPS
        self._weights = _weights(graph)
        self._made: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._rounded: dict[str, str] = {}  # a value → its bytes

    def convert(self) -> None:
        for node in self._graph.node:
            self._nodes.append(self._product(node) if _is_product(node, self._weights) else node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        read = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._weights.values() if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend([*kept, *self._made.values()])

    def _product(self, node: onnx.NodeProto) -> onnx.NodeProto:
        left, weight, *bias = node.input
        scale, zero = self._grid(left)
        columns, column_scales = self._columns(weight, transposed=bool(_attributes(node).get("transB", 0)))
        operands = [self._bytes(left), columns, scale, column_scales, zero]
        if bias:
            operands += ["", bias[0]]
        return helper.make_node("MatMulIntegerToFloat", operands, node.output, name=node.name, domain=_DOMAIN)

    def _grid(self, value: str) -> tuple[str, str]:
        """Names of a value's scale and zero."""
        span = self._spans[value]
        scale = self._constant(f"{value}/scale", np.array(span.scale, dtype=np.float32))
        return scale, self._constant(f"{value}/zero", np.array(span.zero, dtype=np.uint8))

    def _bytes(self, value: str) -> str:
        if value not in self._rounded:
            self._rounded[value] = f"{value}/bytes"
            rounding = helper.make_node("QuantizeLinear", [value, *self._grid(value)], [self._rounded[value]])
            self._nodes.append(rounding)
        return self._rounded[value]

    def _columns(self, weight: str, *, transposed: bool) -> tuple[str, str]:
        """Names of int8 [in, out] and of its scales, float32 [out]."""
        name = f"{weight}/transposed" if transposed else weight
        if f"{name}/bytes" not in self._made:
            array = numpy_helper.to_array(self._weights[weight])
            columns = array.T if transposed else array
            scales = np.maximum(np.abs(columns).max(axis=0) / self._weight_steps, _LEAST).astype(np.float32)
            self._constant(f"{name}/bytes", np.rint(columns / scales).astype(np.int8))
            self._constant(f"{name}/scales", scales)
        return f"{name}/bytes", f"{name}/scales"

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        if name not in self._made:
            self._made[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name
