"""The graph of products alone holds exactly the products of the graph it was made from."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.bench.products import Products, bound_run, is_unknown, products_of
from deploy.errors import BenchError

B, D, V = 3, 4, 5


def _session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def _write(path: Path, nodes: list[onnx.NodeProto], **weights: NDArray[Any]) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", D])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def _products(path: Path) -> Products:
    return products_of(_session(path), path, {"x": np.ones((B, D), dtype=np.float32)})


def test_weights_stay_and_what_was_computed_becomes_an_input_of_its_shape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Softmax", ["a"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"]),
        helper.make_node("MatMul", ["s", "t"], ["m"]),
        helper.make_node("Tanh", ["m"], ["y"]),
    ]
    products = _products(_write(tmp_path / "g.onnx", nodes, w=np.ones((D, V))))
    assert products.count == 2
    assert [tensor.name for tensor in products.model.graph.initializer] == ["w"]
    assert [value.shape for value in products.outputs.values()] == [(B, V), (B, B)]
    assert products.flops == 2 * B * V * D + 2 * B * B * V
    assert {node.op_type for node in products.model.graph.node} <= {"MatMul", "FusedMatMul"}


def test_a_product_of_constants_is_folded_and_not_counted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["v", "w"], ["c"]),
        helper.make_node("MatMul", ["x", "c"], ["y"]),
    ]
    products = _products(_write(tmp_path / "g.onnx", nodes, v=np.ones((D, D)), w=np.ones((D, V))))
    assert products.count == 1


def test_the_bias_of_a_gemm_is_left_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "bias"], ["y"], transB=1)]
    products = _products(_write(tmp_path / "g.onnx", nodes, w=np.ones((V, D)), bias=np.full(V, 7.0)))
    session, _ = bound_run(products, _session(tmp_path / "g.onnx"))
    (found,) = session.run(None, {name: np.ones((B, D), dtype=np.float32) for name in products.inputs})
    assert found.tolist() == [[D] * V] * B


def _with_axis(path: Path, nodes: list[onnx.NodeProto], opset: int = 18) -> Path:
    """The graph of `nodes` over q [B, 1, D]."""
    axis = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    model = onnx.load(_write(path, [helper.make_node("Unsqueeze", ["x", "axis"], ["q"]), *nodes]))
    model.graph.initializer.append(axis)
    model.opset_import[0].version = opset
    onnx.save(model, path)
    return path


def test_fused_attention_counts_as_its_two_products(tmp_path: Path) -> None:
    node = helper.make_node("MultiHeadAttention", ["q", "q", "q"], ["y"], domain="com.microsoft", num_heads=2)
    products = _products(_with_axis(tmp_path / "g.onnx", [node]))
    assert products.count == 2
    assert [value.shape for value in products.outputs.values()] == [(B, 2, 1, 1), (B, 2, 1, D // 2)]


def test_attention_of_the_standard_counts_likewise_with_its_past(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["past"]),
        helper.make_node("Attention", ["q", "q", "q", "", "past", "past"], ["y"], q_num_heads=2, kv_num_heads=2),
    ]
    path = _with_axis(tmp_path / "g.onnx", nodes, opset=23)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 2, 1, D // 2], dtype=np.int64), "split"))
    model.graph.node[-1].output.extend(["present_key", "present_value"])
    onnx.save(model, path)
    products = _products(path)
    assert [value.shape for value in products.inputs.values()] == [
        (B, 2, 1, D // 2),
        (B, 2, 2, D // 2),
        (B, 2, 1, 2),
        (B, 2, 2, D // 2),
    ]


@pytest.mark.parametrize("op", ["Attention", "MultiHeadAttention"])
def test_packed_attention_is_refused(op: str) -> None:
    node = helper.make_node(op, ["q", "w", "bias"][: 3 if op == "Attention" else 1], ["y"], domain="com.microsoft")
    assert is_unknown(node)


def test_an_operator_that_cannot_be_separated_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bd,dv->bv")]
    with pytest.raises(BenchError, match="Einsum"):
        _products(_write(tmp_path / "g.onnx", nodes, w=np.ones((D, V))))


def test_a_bound_run_computes_the_products(tmp_path: Path) -> None:
    path = _write(tmp_path / "g.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.ones((D, V)))
    products = _products(path)
    session, binding = bound_run(products, _session(path))
    session.run_with_iobinding(binding)
    (found,) = binding.copy_outputs_to_cpu()
    assert found.shape == (B, V)
    assert np.ptp(found, axis=1).max() < 1e-6  # all columns of the weights are the same
