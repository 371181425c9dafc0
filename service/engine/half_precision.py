"""A search graph whose network computes in 16-bit floats, and whose scores stay in 32.

The converter is ONNX Runtime's own; what it must leave alone is decided here. A score begins with the logarithm of the
softmax, or where something is computed from a vector of an item or a prefix, and everything it flows through from there
on keeps 32 bits: products, sums over levels, masks of minus infinity, every TopK. So do the graph's inputs and outputs,
but for the tables of vectors, which halve.

Needs the package `onnx`.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

_FIRST_SCORES: Final = frozenset({"LogSoftmax"})
_SCORING_VECTORS: Final = ("item_output", "prefix_output")
_MOVES: Final = frozenset({"Gather", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_KEPT_INPUTS: Final = ("rescore_weight",)


def half_precision(path: Path) -> bytes:
    """The graph in the file `path`, converted, with its weights inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        _name_nodes(model.graph.node)
        outputs = [value.name for value in model.graph.output]
        converted = convert_float_to_float16(
            model,
            keep_io_types=[*_KEPT_INPUTS, *outputs],
            op_block_list=["TopK"],
            node_block_list=sorted(_keep_32_bits(model)),
        )
    _drop_repeated(converted.graph)
    data: bytes = converted.SerializeToString()
    return data


def _drop_repeated(graph: onnx.GraphProto) -> None:
    """The converter casts a value once for every node that keeps 32 bits, under one name each time."""
    once = {node.output[0]: node for node in reversed(graph.node)}
    kept = [node for node in graph.node if once[node.output[0]] is node]
    del graph.node[:]
    graph.node.extend(kept)


def _name_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """The converter tells nodes apart by name."""
    for place, node in enumerate(nodes):
        node.name = f"{place}:{node.op_type}"


def _keep_32_bits(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes a score flows through, in the order of the graph."""
    floats = _floats(model)
    vectors: set[str] = set(_SCORING_VECTORS)
    scores: set[str] = set()
    kept: set[str] = set()
    for node in model.graph.node:
        reads = vectors.intersection(node.input)
        if node.op_type in _MOVES and reads:
            vectors.update(node.output)
        elif node.op_type in _FIRST_SCORES or reads or scores.intersection(node.input):
            scores.update(floats.intersection(node.output))
            kept.add(node.name)
    return kept


def _floats(model: onnx.ModelProto) -> set[str]:
    """Values that hold 32-bit floats."""
    graph = model.graph
    return {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
