"""The network in 16 bits: scores keep 32, most items come back, and too few of them are refused."""

import numpy as np
import onnx
import pytest

from models.artifact import Artifact
from models.graph import SearchRow
from service.engine.catalog import Catalog
from service.engine.devices import CPU
from service.engine.golden import GoldenError, check_golden
from service.engine.gpu_search import GpuSearch
from service.engine.half_precision import half_precision
from service.engine.live import LiveSearch
from service.engine.search import GraphSearch, Shape

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def half(artifact: Artifact) -> GpuSearch:
    models = {width: half_precision(artifact.graph_path(width)) for width in artifact.manifest.beam_widths}
    return GpuSearch(artifact, models=models, provider=CPU, max_rows=12)


def test_scores_flow_in_32_bits_and_the_network_in_16(artifact: Artifact) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(half_precision(artifact.graph_path(8))))
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    vectors, products = {"item_output", "prefix_output"}, 0
    for node in [*graph.node, *graph.node]:  # the converter's casts stand at the end
        if node.op_type in ("Gather", "Cast") and vectors.intersection(node.input):
            vectors.update(node.output)
    for node in graph.node:
        product = vectors.intersection(node.input) and not vectors.intersection(node.output)
        if product or node.op_type in ("TopK", "LogSoftmax", "ReduceSum"):
            products += bool(product)
            assert types[node.input[0]] == types[node.input[1 if product else 0]] == FLOAT
        elif node.op_type in ("Attention", "Gemm", "LayerNormalization", "Gelu"):
            assert types[node.input[0]] == HALF
    assert products == 2 * artifact.manifest.config.code_length - 1  # of prefixes and of items at each level
    assert (types["item_input"], types["item_output"], types["rescore_weight"]) == (HALF, HALF, FLOAT)
    assert all(types[value.name] == FLOAT for value in graph.output if value.name != "item")


def test_nearly_the_same_items_come_back(artifact: Artifact, half: GpuSearch) -> None:
    rng = np.random.default_rng(2)
    rows = [SearchRow(rng.integers(0, 60, 5).astype(np.int32)) for _ in range(12)]
    exact, rough = (search.run(rows, Shape(8, 6)) for search in (GraphSearch(artifact, 1), half))
    common = sum(
        len(set(one) & set(other)) for one, other in zip(exact.item.tolist(), rough.item.tolist(), strict=True)
    )
    assert common >= 0.9 * exact.item.size
    alike = exact.item == rough.item
    gap = np.abs(exact.score - rough.score)[alike].max()
    assert 0 < gap < 0.3


def test_the_golden_answers_tell_how_many_items_come_back(
    artifact: Artifact, catalog: Catalog, search: LiveSearch, half: GpuSearch
) -> None:
    assert check_golden(artifact, catalog, search) == 1.0
    overlap = check_golden(artifact, catalog, half, least_overlap=0.9)
    assert 0.9 <= overlap <= 1.0
    with pytest.raises(GoldenError, match="of the items of its golden requests"):
        check_golden(artifact, catalog, half, least_overlap=overlap + 0.001)
