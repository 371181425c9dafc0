"""A trained generator → ONNX search graphs, proved against torch and against the numpy reference.

One export with a symbolic beam width; for every width of the artifact that input becomes a constant, because TopK on
CUDA wants a constant K. The graphs share one file of weights. Those for CPUs, which skip what is decided, are exported
apart.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxscript import optimizer
from torch import Tensor, nn

from models.artifact import CPU_WEIGHTS, WEIGHTS, graph_file
from models.beam import Candidates, beam_search
from models.graph import OUTPUTS, Inputs, SearchRow, bucket_for, request_inputs
from models.network import Generator
from models.search_graph import BEAMS, OPEN_FROM, SearchGraph
from models.trie import CodeTrie

from .errors import ExportError

SCORE_TOLERANCE = 1e-4
_SMALL_BYTES = 1024
_SEARCH_OPSET = 23  # the first with attention as one operator


@dataclass(frozen=True)
class SearchResult:
    """Answers of one batch: item int32 [B, K] (-1: no legal leaf left), score and code_score float32 [B, K],
    prefix_score float32 [B, K, L]."""

    item: NDArray[np.int32]
    score: NDArray[np.float32]
    code_score: NDArray[np.float32]
    prefix_score: NDArray[np.float32]


class GraphSearch:
    """Runs an exported graph on the CPU over fixed catalog inputs."""

    def __init__(self, graph: Path, catalog: Inputs, code_length: int, buckets: Sequence[int]) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.name = graph.name
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        wanted = {value.name for value in self.session.get_inputs()}
        self.catalog = {name: array for name, array in catalog.items() if name in wanted}
        self.code_length = code_length
        self.buckets = buckets

    def __call__(self, rows: Sequence[SearchRow], rescore_weight: float) -> SearchResult:
        """All rows in one batch, padded to the bucket of the longest history."""
        bucket = bucket_for(max(len(row.history) for row in rows), self.buckets)
        inputs = request_inputs(rows, bucket, self.code_length, rescore_weight)
        return SearchResult(*self.session.run(list(OUTPUTS), self.catalog | inputs))


def export_graphs(generator: Generator, catalog: Inputs, folder: Path, beam_widths: Sequence[int]) -> None:
    """Writes a graph for each beam width, another for CPUs where codes are long enough for one, and their weights."""
    generator = generator.eval().cpu()
    _export_kind(generator, catalog, folder, beam_widths, cpu=False)
    if generator.config.code_length > OPEN_FROM:
        _export_kind(generator, catalog, folder, beam_widths, cpu=True)


def _export_kind(generator: Generator, catalog: Inputs, folder: Path, beam_widths: Sequence[int], *, cpu: bool) -> None:
    model, file = _export(generator, catalog, skip_decided=cpu), CPU_WEIGHTS if cpu else WEIGHTS
    shared = {tensor.name for tensor in model.graph.initializer}
    written: bytes | None = None
    for width in beam_widths:
        graph = _with_beam_width(model, width)
        (folder / file).unlink(missing_ok=True)
        _save(graph, folder / graph_file(width, cpu=cpu), file, shared)
        weights = (folder / file).read_bytes()
        if written is not None and weights != written:
            raise ExportError(f"the graph for beam width {width} does not share the weights of the others")
        written = weights
    (folder / file).chmod(0o644)


def _save(graph: onnx.ModelProto, path: Path, file: str, shared: set[str]) -> None:
    """Weights named in `shared` go into the weights `file`; what follows from the beam width stays in the graph."""
    for tensor in graph.graph.initializer:
        if tensor.name in shared and tensor.HasField("raw_data") and len(tensor.raw_data) >= _SMALL_BYTES:
            onnx.external_data_helper.set_external_data(tensor, file)
    onnx.save_model(graph, path)


def _export(generator: Generator, catalog: Inputs, *, skip_decided: bool) -> onnx.ModelProto:
    search = SearchGraph(generator, skip_decided=skip_decided)
    config = generator.config
    # Sizes of 2 or more everywhere: the exporter would freeze a dimension it sees as 0 or 1.
    rows = [SearchRow(np.zeros(1, dtype=np.int32))] * 3
    length = min(2, config.history_length)
    sample = catalog | request_inputs(rows, length, config.code_length, 1.0) | {BEAMS: np.zeros(4, dtype=np.int32)}
    args = tuple(
        torch.from_numpy(np.array(sample[name] if name == "history" else _at_least_two(sample[name])))
        for name in search.input_names
    )
    dims = tuple(
        _dynamic_dims(name, arg.dim(), config.history_length)
        for name, arg in zip(search.input_names, args, strict=True)
    )
    return quiet_export(search, args, {"tensors": dims}, search.input_names, list(OUTPUTS), opset=_SEARCH_OPSET)


def quiet_export(
    module: nn.Module,
    args: tuple[Tensor, ...],
    dynamic_shapes: Any,
    inputs: list[str],
    outputs: list[str],
    *,
    opset: int | None = None,
) -> onnx.ModelProto:
    """One traced ONNX graph of `module` without the exporter's chatter; `dynamic_shapes` as `torch.export` wants it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "torch.onnx._internal.exporter._registration"):
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            args,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=inputs,
            output_names=outputs,
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise ExportError("the exporter returned no program")
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drops the exporter's notes of source lines: they are most of the file and tell of the training machine."""
    for noted in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        del noted.metadata_props[:]
        noted.doc_string = ""
    return model


def _at_least_two(array: NDArray[Any]) -> NDArray[Any]:
    """Pads the traced sample, whose sizes do not matter, where a catalog is smaller than the exporter can trace."""
    for axis, size in enumerate(array.shape):
        if size < 2:
            array = np.concatenate([array, array], axis=axis)
    return array


def _dynamic_dims(name: str, rank: int, history_length: int) -> dict[int, Any]:
    """Every dimension of every input but the tables' last one, and T where the network reads one item only."""
    tables = ("item_input", "item_output", "prefix_output", "item_code")
    fixed_last = name in tables or (name == "history" and history_length == 1)
    return dict.fromkeys(range(rank - 1 if fixed_last else rank), torch.export.Dim.DYNAMIC)


def _with_beam_width(model: onnx.ModelProto, width: int) -> onnx.ModelProto:
    """A copy whose `beams` input is a constant of that length, folded until every TopK has a constant K."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    kept = [value for value in graph.graph.input if value.name != BEAMS]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(width, dtype=np.int32), BEAMS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folded: onnx.ModelProto = optimizer.optimize(graph)
    constants = {tensor.name for tensor in folded.graph.initializer}
    constants |= {name for node in folded.graph.node if node.op_type == "Constant" for name in node.output}
    for node in folded.graph.node:
        if node.op_type == "TopK" and node.input[1] not in constants:
            raise ExportError(f"TopK node {node.name} has no constant K at beam width {width}")
    return folded


def prove_parity(
    generator: Generator,
    searches: Sequence[GraphSearch],
    trie: CodeTrie,
    rows: Sequence[SearchRow],
    beam_width: int,
    rescore_weight: float,
) -> int:
    """Raises ExportError unless every graph of a beam width and eager torch answer like the numpy reference.

    Scores agree within 1e-4, or a hundred-thousandth of the largest; order differs only between items closer than that,
    or where a beam's edge was. Returns how many answers are excused because a beam's edge was decided by less.
    """
    catalog, buckets = searches[0].catalog, searches[0].buckets
    results = [(search.name, search(rows, rescore_weight)) for search in searches]
    results.append(("eager torch", _eager(generator, catalog, rows, buckets, beam_width, rescore_weight)))
    edges, comparisons = 0, len(rows) * len(results)
    for place, row in enumerate(rows):
        slow = reference(generator, catalog, trie, row, beam_width, rescore_weight)
        for name, result in results:
            found = _difference(result, place, slow)
            if found.fault and not (found.at_edge and slow.edge_gap < _tolerance(slow)):
                raise ExportError(f"{name} and the numpy reference differ on history {place}: {found.fault}")
            edges += bool(found.fault)
    if edges > comparisons / 2:
        raise ExportError(f"{edges} of {comparisons} comparisons hung on ties at a beam's edge and prove nothing")
    return edges


@dataclass(frozen=True)
class _Difference:
    """fault is a sentence or empty; at_edge: such as another choice at a beam's edge explains."""

    fault: str
    at_edge: bool = False


def _difference(result: SearchResult, place: int, slow: Candidates) -> _Difference:
    """Compares one row; an item found by both must have the same scores, whatever its place."""
    legal = result.item[place] >= 0
    items, scores, code_scores = result.item[place][legal], result.score[place][legal], result.code_score[place][legal]
    if len(items) != len(slow.item):
        return _Difference(f"{len(items)} items instead of {len(slow.item)}")
    at = {item: position for position, item in enumerate(slow.item.tolist())}
    if len(at) != len(set(items.tolist())):
        return _Difference("an item comes twice")
    both = np.array([item in at for item in items.tolist()], dtype=bool)
    partner = np.array([at[item] for item in items[both].tolist()], dtype=np.int64)
    gap = _largest(scores[both] - slow.score[partner])
    tolerance = _tolerance(slow)
    code_gap = _largest(code_scores[both] - slow.code_score[partner])
    if not (gap <= tolerance and code_gap <= SCORE_TOLERANCE):  # a NaN is no agreement
        return _Difference(f"scores of the same item differ by {gap:.2e}")
    prefix_gap = _largest(result.prefix_score[place][legal][both] - slow.prefix_score[partner])
    if not prefix_gap <= SCORE_TOLERANCE:
        return _Difference(f"scores of a prefix differ by {prefix_gap:.2e}")
    if not both.all():
        return _Difference("other items", at_edge=True)
    if not _largest(slow.score[partner] - slow.score) <= tolerance:
        return _Difference("another order")
    return _Difference("")


def _tolerance(slow: Candidates) -> float:
    """The item score is as exact as float32 at its size; a code score alone is a sum of a few logarithms."""
    return SCORE_TOLERANCE * max(1.0, _largest(slow.score) / 10)


def _largest(values: NDArray[np.float32]) -> float:
    return float(np.abs(values).max()) if len(values) else 0.0


def _eager(
    generator: Generator, catalog: Inputs, rows: Sequence[SearchRow], buckets: Sequence[int], width: int, weight: float
) -> SearchResult:
    search = SearchGraph(generator)
    bucket = bucket_for(max(len(row.history) for row in rows), buckets)
    inputs = catalog | request_inputs(rows, bucket, generator.config.code_length, weight)
    inputs[BEAMS] = np.zeros(width, dtype=np.int32)
    with torch.no_grad():
        outputs = search(*(torch.from_numpy(np.array(inputs[name])) for name in search.input_names))
    return SearchResult(*(output.numpy() for output in outputs))


def reference(
    generator: Generator, catalog: Inputs, trie: CodeTrie, row: SearchRow, width: int, weight: float
) -> Candidates:
    """The numpy beam search over logits computed without a cache, every prefix from its start."""
    config = generator.config
    tables: dict[str, torch.Tensor] = {
        name: torch.from_numpy(np.array(array))
        for name, array in catalog.items()
        if name in ("item_input", "item_code")
    }
    history = np.full((1, config.history_length), -1, dtype=np.int32)
    newest = row.history[-config.history_length :]
    if len(newest):
        history[0, -len(newest) :] = newest
    with torch.no_grad():
        context = generator.encode(torch.from_numpy(history), tables)

        def logits(level: int, prefixes: NDArray[np.int32]) -> NDArray[np.float32]:
            codes = torch.zeros(len(prefixes), config.code_length, dtype=torch.int64)
            codes[:, :level] = torch.from_numpy(prefixes)
            repeated = context.repeat(len(prefixes))
            return generator.teacher_forced(repeated, codes)[0][level].numpy()

        values = prefix_values(catalog, config.code_length, context.user_state[0].numpy())
        return beam_search(
            trie, logits, width, legal_leaf=_legal(trie, row, catalog), values=values, rescore_weight=weight
        )


def prefix_values(catalog: Inputs, code_length: int, user_state: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What the item head says of every state of levels 1 … L to `user_state` float32 [D]: L arrays float32 [S_l]."""
    of_item, of_prefix = catalog["item_output"] @ user_state, catalog["prefix_output"] @ user_state
    rows = [catalog[f"prefix_row_{level}"] for level in range(code_length - 1)]
    values = [np.where(row >= 0, of_item[np.maximum(row, 0)], of_prefix[np.maximum(-1 - row, 0)]) for row in rows]
    return [*values, of_item[catalog["leaf_item"]]]


def _legal(trie: CodeTrie, row: SearchRow, catalog: Inputs) -> NDArray[np.bool_]:
    """Which leaves of its filter slot the row's dead subtrees leave."""
    legal: NDArray[np.bool_] = catalog[f"alive_{trie.code_length - 1}"][row.slot, : trie.item_count] > 0
    for level, dead in enumerate(row.dead):
        states = trie.child_start[level][dead.parent] + dead.offset
        first, last = states, states + 1
        for below in range(level + 1, trie.code_length):
            first, last = trie.child_start[below][first], trie.child_start[below][last]
        for start, end in zip(first.tolist(), last.tolist(), strict=True):
            legal[start:end] = False
    return legal
