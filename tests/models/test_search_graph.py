"""The exported graph against torch and numpy, on catalogs from one item up and under exclusions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from models.artifact import Artifact, graph_file
from models.beam import shortlist
from models.codes import CodeTable
from models.graph import SearchRow, catalog_inputs, request_inputs, trie_inputs
from models.search_graph import BEAMS, Beams, Guide, SearchGraph, children_of, is_open, listed
from models.trie import CodeTrie
from tests.tiny import tiny_package
from training.export import GraphSearch, prefix_values, prove_parity
from training.package import Package, search_rows

from .networks import LEVELS, TOKENS, network

WIDTHS = (4, 8)


@dataclass(frozen=True)
class Exported:
    """A network in an artifact, and which of its graphs is meant."""

    package: Package
    folder: Path
    cpu: bool

    def graph(self, width: int) -> Path:
        return self.folder / graph_file(width, cpu=self.cpu)


@pytest.fixture(
    scope="module", params=[(kind, cpu) for kind in ("temporal", "encoder_decoder") for cpu in (False, True)]
)
def exported(request: pytest.FixtureRequest, by_generator: dict[str, Artifact]) -> Exported:
    kind, cpu = request.param
    return Exported(tiny_package(generator=kind, beam_widths=WIDTHS), by_generator[kind].folder, cpu)


def search_of(exported: Exported, catalog: Package, width: int) -> tuple[GraphSearch, CodeTrie]:
    trie = CodeTrie.build(catalog.codes)
    inputs, buckets = catalog.catalog(trie), exported.package.history_buckets
    return GraphSearch(exported.graph(width), inputs, trie.code_length, buckets), trie


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("items", [1, 2, 3, 5, 9, 60])
def test_graph_torch_and_numpy_agree_on_any_catalog(exported: Exported, items: int, width: int) -> None:
    """One graph serves every catalog: nothing of the items is baked in."""
    catalog = tiny_package(generator=exported.package.generator.config.generator, items=items, seed=items)
    search, trie = search_of(exported, catalog, width)
    for exclude_seen in (True, False):
        rows = search_rows(trie, catalog.histories, exclude_seen=exclude_seen)
        prove_parity(exported.package.generator, [search], trie, rows, width, 0.5)


def test_if_k_legal_items_exist_k_come_back(exported: Exported) -> None:
    search, trie = search_of(exported, exported.package, 8)
    rng = np.random.default_rng(0)
    for legal_count in (0, 1, 2, 7, 8, 9, 30):
        excluded = rng.permutation(60)[legal_count:].astype(np.int32)
        row = SearchRow(np.array([3, 1], dtype=np.int32), trie.dead_states(trie.item_leaf[excluded]))
        items = search([row], 0.5).item[0]
        found = items[items >= 0]
        assert len(found) == min(8, legal_count)
        assert len(np.unique(found)) == len(found)
        assert not np.isin(found, excluded).any()
        assert (items[len(found) :] == -1).all()


def test_the_guide_values_every_state_as_the_reference_does() -> None:
    package = tiny_package(items=60)
    trie = CodeTrie.build(package.codes)
    catalog = package.catalog(trie)
    user_state = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    inputs = {name: torch.from_numpy(np.array(array)) for name, array in catalog.items()}
    guide = Guide(torch.from_numpy(user_state), trie.code_length, inputs | {"rescore_weight": torch.tensor(0.5)})
    wanted = [prefix_values(catalog, trie.code_length, state) for state in user_state]
    for level, size in enumerate(trie.states()[1:]):
        states = torch.arange(size, dtype=torch.int32)
        expected = 0.5 * np.stack([values[level] for values in wanted])
        np.testing.assert_allclose(guide.of_all(level, states).numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(guide.of_each(level, states.expand(2, -1)).numpy(), expected, atol=1e-5)


def set_slots(search: GraphSearch, trie: CodeTrie, legal: list[NDArray[np.bool_]], spare: int) -> None:
    """Filter slots in arrays longer than the trie; what lies behind it must not matter."""
    for level, counts in enumerate(zip(*(trie.count_leaves(mask) for mask in legal), strict=True)):
        alive = np.full((len(legal), counts[0].size + spare), 99, dtype=np.int32)
        alive[:, : counts[0].size] = counts
        search.catalog[f"alive_{level}"] = alive


@pytest.mark.parametrize("width", WIDTHS)
def test_graph_torch_and_numpy_agree_under_filters_and_exclusions(exported: Exported, width: int) -> None:
    package = exported.package
    search, trie = search_of(exported, package, width)
    rng = np.random.default_rng(3)
    legal = [rng.random(60) < share for share in (1.0, 0.5, 0.1, 0.05, 0.0)]
    set_slots(search, trie, legal, spare=3)
    rows: list[SearchRow] = []
    for slot, mask in enumerate(legal):
        counts = trie.count_leaves(mask)
        for history in package.histories:
            rows.append(SearchRow(history, trie.dead_states(trie.item_leaf[history], counts), slot))
    prove_parity(package.generator, [search], trie, rows, width, 0.5)
    result = search(rows, 0.5)
    for row, items in zip(rows, result.item, strict=True):
        left = set(trie.leaf_item[legal[row.slot]].tolist()) - set(row.history.tolist())
        found = items[items >= 0].tolist()
        assert len(found) == len(set(found)) == min(width, len(left))
        assert left.issuperset(found)


def test_prefix_scores_add_up_to_the_code_score(exported: Exported) -> None:
    search, trie = search_of(exported, exported.package, 8)
    result = search(search_rows(trie, exported.package.histories, exclude_seen=True), 0.5)
    assert result.prefix_score.shape == (*result.item.shape, trie.code_length)
    np.testing.assert_array_equal(result.prefix_score[..., -1], result.code_score)
    assert (np.diff(result.prefix_score, axis=-1) <= 0).all()


def test_slots_beyond_the_range_of_int32_are_addressed(exported: Exported) -> None:
    model = onnx.load(exported.graph(8))
    casts = [node for node in model.graph.node if node.op_type == "Cast" and "slot" in node.input]
    assert [onnx.helper.get_node_attr_value(cast, "to") for cast in casts] == [onnx.TensorProto.INT64]


def test_a_filter_slot_hides_items(exported: Exported) -> None:
    package = exported.package
    search, trie = search_of(exported, package, 8)
    hidden = np.arange(0, 60, 2)
    legal = np.ones(60, dtype=bool)
    legal[trie.item_leaf[hidden]] = False
    set_slots(search, trie, [np.ones(60, dtype=bool), legal], spare=7)
    history = np.array([5], dtype=np.int32)
    result = search([SearchRow(history, slot=1), SearchRow(history, slot=0)], 0.5)
    assert not np.isin(result.item[0], hidden).any()
    assert (result.item[0] >= 0).all()
    assert np.isin(result.item[1], hidden).any()


def test_a_row_answers_the_same_alone_and_in_a_batch(exported: Exported) -> None:
    search, trie = search_of(exported, exported.package, 4)
    rows = search_rows(trie, exported.package.histories, exclude_seen=True)
    together = search(rows, 0.5)
    for place, row in enumerate(rows):
        alone = search([row], 0.5)
        assert alone.item[0].tolist() == together.item[place].tolist()
        legal = alone.item[0] >= 0
        np.testing.assert_allclose(alone.score[0][legal], together.score[place][legal], atol=1e-4)


def test_an_empty_history_is_answered(exported: Exported) -> None:
    search, _ = search_of(exported, exported.package, 4)
    result = search([SearchRow(np.empty(0, dtype=np.int32))], 0.5)
    assert (result.item >= 0).all()
    assert np.isfinite(result.score).all()


def test_every_topk_has_a_constant_k_and_no_loops_are_left(exported: Exported) -> None:
    model = onnx.load(exported.graph(8))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        assert node.op_type not in ("If", "Loop", "Scan")
        if node.op_type == "TopK":
            assert constants[node.input[1]].tolist() in ([8], [8 * shortlist(1)], [8 * shortlist(2)])


def test_the_graph_holds_only_operators_of_the_standard(exported: Exported) -> None:
    """So that no provider is tied to it, and attention stays one operator on each."""
    model = onnx.load(exported.graph(8))
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.version] == [("", 23)]
    kinds = [node.op_type for node in model.graph.node]
    layers_and_steps = {"temporal": 1 + 2, "encoder_decoder": 1 + 3 + 2}  # level 0 attends to itself alone
    assert kinds.count("Attention") == layers_and_steps[exported.package.generator.config.generator]
    assert "Softmax" not in kinds


def test_no_trace_of_the_training_machine_is_in_the_graph(exported: Exported) -> None:
    data = (exported.graph(4)).read_bytes()
    assert str(Path.cwd()).encode() not in data
    assert b"site-packages" not in data


def test_random_histories_give_no_invalid_and_no_double_items(exported: Exported) -> None:
    search, trie = search_of(exported, exported.package, 8)
    rng = np.random.default_rng(0)
    histories = [rng.choice(60, size=rng.integers(1, 20), replace=False).astype(np.int32) for _ in range(500)]
    result = search(search_rows(trie, histories, exclude_seen=True), 0.5)
    for history, items in zip(histories, result.item, strict=True):
        assert ((items >= 0) & (items < 60)).all()
        assert len(set(items.tolist())) == 8
        assert not np.isin(items, history).any()


def test_an_artifact_serves_the_same_inputs_it_was_proved_with(open_to_new_items: Artifact) -> None:
    package = tiny_package()
    from_disk, from_memory = catalog_inputs(open_to_new_items), package.catalog(CodeTrie.build(package.codes))
    assert from_disk.keys() == from_memory.keys()
    for name, array in from_memory.items():
        np.testing.assert_array_equal(from_disk[name], array)


def test_a_long_history_keeps_its_newest_items() -> None:
    row = SearchRow(np.arange(10, dtype=np.int32))
    assert request_inputs([row], 4, 3, 1.0)["history"].tolist() == [[6, 7, 8, 9]]
    assert request_inputs([row], 12, 3, 1.0)["history"].tolist() == [[-1, -1, *range(10)]]


@pytest.mark.parametrize("kind", ["temporal", "encoder_decoder"])
@pytest.mark.parametrize("items", [1, 40, 90, 600])
def test_skipping_what_is_decided_changes_no_answer(kind: Literal["temporal", "encoder_decoder"], items: int) -> None:
    """Four levels of six tokens: of 40 items most prefixes of two tokens have one item, of 600 hardly one has."""
    generator = network(kind, gate_width=24, gate_levels=3)
    package = tiny_package(items=items, code_length=LEVELS, tokens_per_level=TOKENS, generator=kind)
    trie = CodeTrie.build(package.codes)
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, items, rng.integers(0, 7)).astype(np.int32) for _ in range(20)]
    rows = search_rows(trie, histories, exclude_seen=True)
    fed = package.catalog(trie) | request_inputs(rows, 6, LEVELS, 0.5) | {BEAMS: np.zeros(9, dtype=np.int32)}
    whole, skipping = (SearchGraph(generator, skip_decided=skip) for skip in (False, True))
    with torch.no_grad():
        wanted, found = (
            graph(*(torch.from_numpy(np.array(fed[name])) for name in graph.input_names)) for graph in (whole, skipping)
        )
    torch.testing.assert_close(found[0], wanted[0])
    for one, other in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_what_a_device_pads_rows_with_never_passes_for_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's TopK on CUDA pads with the least float32, at places that no candidate has."""
    package = tiny_package(items=5)
    trie = CodeTrie.build(package.codes)
    rows = search_rows(trie, package.histories, exclude_seen=True)
    fed = package.catalog(trie) | request_inputs(rows, 4, trie.code_length, 0.5) | {BEAMS: np.zeros(8, dtype=np.int32)}
    graph = SearchGraph(package.generator)
    inputs = [torch.from_numpy(np.array(fed[name])) for name in graph.input_names]
    topk = torch.topk

    def padded(values: torch.Tensor, k: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        pads = values.new_full((len(values), k), torch.finfo(values.dtype).min)
        score, place = topk(torch.cat([pads, values], dim=dim), k, dim=dim)
        return score, torch.where(place < k, -7, place - k)

    with torch.no_grad():
        wanted = graph(*inputs)
        monkeypatch.setattr(torch, "topk", padded)
        found = graph(*inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_beam_is_open_while_several_items_are_left_to_it() -> None:
    """After 0-0 two items are left, after 0-1 and after 1-0 one."""
    codes = CodeTable(np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=np.int32), 2)
    trie = CodeTrie.build(codes)
    inputs = {name: torch.from_numpy(np.array(array)) for name, array in trie_inputs(trie).items()}
    state = torch.tensor([[0, 1, 2, 0]], dtype=torch.int32)
    score = torch.tensor([[-1.0, -1.0, -2.0, float("-inf")]])
    beams = Beams(state, state, state.long(), score, score)
    children = children_of(2, beams, inputs)
    assert is_open(beams, children, [inputs["child_start_3"]]).tolist() == [True, False, False, False]


def test_only_open_beams_are_listed_and_the_first() -> None:
    parent = torch.tensor([[2, 0, 1], [1, 1, 2]])
    found = listed(torch.tensor([False, False, True, False, True, True]), parent)
    assert found.beam.tolist() == [0, 2, 4, 5]
    assert found.row.tolist() == [0, 0, 1, 1]
    assert found.parent.tolist() == [2, 1, 4, 5]
    assert found.place[found.beam].tolist() == [0, 1, 2, 3]
    assert ((found.place >= 0) & (found.place < 4)).all()


def test_only_the_graph_for_cpus_has_sizes_that_depend_on_answers(by_generator: dict[str, Artifact]) -> None:
    for artifact in by_generator.values():
        paths = (artifact.graph_path(8), artifact.cpu_graph_path(8))
        kinds = [{node.op_type for node in onnx.load(path).graph.node} for path in paths]
        assert "NonZero" not in kinds[0]
        assert "NonZero" in kinds[1]


def test_codes_too_short_for_it_have_one_graph_for_every_device(another_artifact: Artifact) -> None:
    assert another_artifact.manifest.config.code_length == 2
    graphs = {path.name for path in another_artifact.folder.glob("search*")}
    assert graphs == {"search_b4.onnx", "search_b8.onnx", "search.weights"}


def test_an_artifact_without_graphs_for_cpus_has_the_others(by_generator: dict[str, Artifact]) -> None:
    artifact = by_generator["temporal"]
    assert artifact.cpu_graph_path(8).name == "search_b8_cpu.onnx"
    files = {name: entry for name, entry in artifact.manifest.files.items() if "_cpu" not in name}
    earlier = Artifact(artifact.folder, artifact.manifest.model_copy(update={"files": files}))
    assert earlier.cpu_graph_path(8) == artifact.graph_path(8)
