"""The matrix products of a search graph, alone: what no way of writing the same network can save.

ONNX Runtime first optimises the graph as it does for the engine, so that products are counted after folding and
fusion. A probe of that optimised graph runs once on real inputs and says which shape every operand of a product has.
The graph made from it holds exactly these products, at these shapes: weights stay weights (and are packed beforehand as
in the engine), what was computed becomes an input, every result is an output. Nothing in it waits for anything else.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from ..errors import BenchError

Feed = Mapping[str, NDArray[Any]]

_COPIED: Final = frozenset({"MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
_GEMMS: Final = frozenset({"Gemm", "FusedGemm"})
_ATTENTIONS: Final = {("", "Attention"): 4, ("com.microsoft", "MultiHeadAttention"): 6}
"""Fused attention, and which of its inputs holds the keys of earlier positions."""
_PRODUCTS: Final = _COPIED | _GEMMS
_UNKNOWN: Final = frozenset(
    {"QAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention", "Einsum", "Conv", "FusedConv"}
    | {"QLinearMatMul", "QGemm", "MatMulNBits", "MatMulBnb4", "GRU", "LSTM", "RNN", "SparseToDenseMatMul"}
)
_ELEMENT: Final = {
    "tensor(float)": onnx.TensorProto.FLOAT,
    "tensor(float16)": onnx.TensorProto.FLOAT16,
    "tensor(bfloat16)": onnx.TensorProto.BFLOAT16,
    "tensor(uint8)": onnx.TensorProto.UINT8,
    "tensor(int8)": onnx.TensorProto.INT8,
    "tensor(int32)": onnx.TensorProto.INT32,
}


@dataclass(frozen=True)
class Value:
    """What the probe learned of one value: ONNX element type and actual shape."""

    element: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Products:
    """The graph of products alone.

    model    weights inside, every other operand an input of fixed shape
    inputs   name → shape and type
    outputs  name → shape and type
    count    products in it
    flops    multiplications and additions of one run
    """

    model: onnx.ModelProto
    inputs: dict[str, Value]
    outputs: dict[str, Value]
    count: int
    flops: int


def products_of(session: ort.InferenceSession, graph: Path, feed: Feed) -> Products:
    """The products of the graph at `graph` at the shapes of `feed`, optimised as `session`, an open one of it, is.

    Raises BenchError where the graph multiplies matrices in an operator this module does not know.
    """
    model = _optimised(session, graph)
    strangers = sorted({node.op_type for node in model.graph.node if is_unknown(node)})
    if strangers:
        raise BenchError(f"operators multiply matrices in a way this tool cannot separate: {', '.join(strangers)}")
    values = _probe(model, feed)
    return _Builder(model, values).build()


def _is_attention(node: onnx.NodeProto) -> bool:
    return (node.domain, node.op_type) in _ATTENTIONS


def is_unknown(node: onnx.NodeProto) -> bool:
    if _is_attention(node):  # queries, keys and values in one tensor would have to be taken apart
        return len(node.input) < 3 or not all(node.input[:3])
    return node.op_type in _UNKNOWN or node.op_type == "Attention"


def _optimised(session: ort.InferenceSession, graph: Path) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = session.get_session_options()
        options.optimized_model_filepath = str(path)
        whole = onnx.load(graph).SerializeToString()  # weights inside, or the copy would look for their file
        ort.InferenceSession(whole, options, providers=session.get_providers())
        options.optimized_model_filepath = ""  # the options are shared by everybody who asks the session for them
        return onnx.load(path)


def _probe(model: onnx.ModelProto, feed: Feed) -> dict[str, Value]:
    """Runs the optimised graph once, asking only for the shapes of what its products read and write."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = {
        name
        for node in model.graph.node
        if node.op_type in _PRODUCTS or _is_attention(node)
        for name in (*node.input, *node.output)
        if name and name not in weights
    }
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in sorted(names):
        probe.graph.node.append(helper.make_node("Shape", [name], [_shape_of(name)]))
        probe.graph.output.extend([onnx.ValueInfoProto(name=name), onnx.ValueInfoProto(name=_shape_of(name))])
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    known = {value.name for value in session.get_inputs()}
    shapes = session.run([_shape_of(name) for name in sorted(names)], {n: a for n, a in feed.items() if n in known})
    elements = {value.name: _ELEMENT[value.type] for value in session.get_outputs() if value.name in names}
    return {n: Value(elements[n], tuple(s.tolist())) for n, s in zip(sorted(names), shapes, strict=True)}


def _shape_of(name: str) -> str:
    return f"{name}/shape"


class _Builder:
    """Collects products into one graph."""

    def __init__(self, model: onnx.ModelProto, values: dict[str, Value]) -> None:
        self._source = model
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._values = values
        self._kept: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: dict[str, Value] = {}
        self._outputs: dict[str, Value] = {}
        self._flops = 0

    def build(self) -> Products:
        for node in self._source.graph.node:
            if _is_attention(node):
                self._attention(node)
            elif node.op_type in _PRODUCTS:
                self._product(node)
        graph = helper.make_graph(
            self._nodes,
            "products",
            [helper.make_tensor_value_info(n, v.element, v.shape) for n, v in self._inputs.items()],
            [helper.make_tensor_value_info(n, v.element, v.shape) for n, v in self._outputs.items()],
            list(self._kept.values()),
        )
        model = helper.make_model(graph, opset_imports=self._source.opset_import, ir_version=self._source.ir_version)
        return Products(model, self._inputs, self._outputs, len(self._nodes), self._flops)

    def _product(self, node: onnx.NodeProto) -> None:
        """A product as it stands; of a Gemm neither the bias nor the activation, which are no products."""
        product = onnx.NodeProto()
        product.CopyFrom(node)
        place = len(self._nodes)
        if node.op_type in _GEMMS:
            product.op_type, product.domain = "Gemm", ""
            del product.input[2:]
            kept = [a for a in product.attribute if a.name in ("alpha", "transA", "transB")]
            del product.attribute[:]
            product.attribute.extend(kept)
        for position, name in enumerate(product.input):
            product.input[position] = self._operand(name, f"product_{place}/{position}")
        self._finish(product, self._values[node.output[0]], self._inner(node))

    def _attention(self, node: onnx.NodeProto) -> None:
        """Queries times keys, and weights times values, [B, H, Q, S] and [B, H, Q, D / H]."""
        heads = {a.name: a.i for a in node.attribute if a.name in ("num_heads", "q_num_heads", "kv_num_heads")}
        query = self._split(node.input[0], heads.get("q_num_heads", heads.get("num_heads", 0)))
        key, value = (self._split(n, heads.get("kv_num_heads", heads.get("num_heads", 0))) for n in node.input[1:3])
        past = node.input[_ATTENTIONS[node.domain, node.op_type] :][:1]
        length = key.shape[2] + (self._values[past[0]].shape[2] if past and past[0] else 0)
        rows, count, queries, inner = query.shape
        scores = Value(query.element, (rows, count, queries, length))
        mixed = Value(query.element, (rows, count, queries, value.shape[3]))
        # Heads that share keys are multiplied one by one all the same.
        self._free_product(query, Value(key.element, (rows, count, length, inner)), scores, transposed=True)
        self._free_product(scores, Value(value.element, (rows, count, length, value.shape[3])), mixed)

    def _split(self, name: str, heads: int) -> Value:
        """As heads: [B, S, H · d] → [B, H, S, d]; what has four dimensions is split already."""
        value = self._values[name]
        if len(value.shape) == 4:
            return value
        rows, length, width = value.shape
        return Value(value.element, (rows, heads, length, width // heads))

    def _free_product(self, left: Value, right: Value, result: Value, *, transposed: bool = False) -> None:
        place = len(self._nodes)
        names = [f"product_{place}/{position}" for position in range(2)]
        self._inputs.update(zip(names, (left, right), strict=True))
        if transposed:
            product = helper.make_node("FusedMatMul", names, [""], domain="com.microsoft", transB=1)
        else:
            product = helper.make_node("MatMul", names, [""])
        self._finish(product, result, left.shape[-1])

    def _operand(self, name: str, fresh: str) -> str:
        if not name:
            return name
        if name in self._weights:
            self._kept[name] = self._weights[name]
            return name
        self._inputs[fresh] = self._values[name]
        return fresh

    def _inner(self, node: onnx.NodeProto) -> int:
        """The dimension that is summed over."""
        name = node.input[0]
        shape = tuple(self._weights[name].dims) if name in self._weights else self._values[name].shape
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return shape[-2 if transposed else -1]

    def _finish(self, product: onnx.NodeProto, result: Value, inner: int) -> None:
        place = len(self._nodes)
        product.name = f"product_{place}"
        del product.output[:]
        product.output.append(f"product_{place}/result")
        self._outputs[product.output[0]] = result
        self._flops += 2 * inner * int(np.prod(result.shape))
        self._nodes.append(product)


def bound_run(products: Products, like: ort.InferenceSession) -> tuple[ort.InferenceSession, ort.IOBinding]:
    """A session of the products with the options and provider of `like`, and buffers to run it with.

    Operands and results of one shape share one buffer, so a run allocates nothing and its memory is warm: a bound from
    below. Two products never read the same name, or ONNX Runtime would compute equal ones once.
    """
    session = ort.InferenceSession(
        products.model.SerializeToString(), like.get_session_options(), providers=like.get_providers()
    )
    binding = session.io_binding()
    rng = np.random.default_rng(0)
    operands: dict[Value, ort.OrtValue] = {}
    results: dict[Value, ort.OrtValue] = {}
    for name, value in products.inputs.items():
        operands.setdefault(value, ort.OrtValue.ortvalue_from_numpy(_random(value, rng)))
        binding.bind_ortvalue_input(name, operands[value])
    for name, value in products.outputs.items():
        results.setdefault(value, ort.OrtValue.ortvalue_from_numpy(_random(value, rng)))
        binding.bind_ortvalue_output(name, results[value])
    return session, binding


def _random(value: Value, rng: np.random.Generator) -> NDArray[Any]:
    dtype = helper.tensor_dtype_to_np_dtype(value.element)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 100, value.shape).astype(dtype)
    return rng.standard_normal(value.shape, dtype=np.float32).astype(dtype)
