"""The last step of training: a generator and its catalog become an artifact, after the graph has proved itself."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.artifact import TEXT_ENCODER, TOKENIZER, Artifact, ArtifactWriter, graph_file
from models.codes import CodeTable
from models.graph import Inputs, SearchRow, trie_inputs
from models.item_ids import ItemIds
from models.network import Generator
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie

from .errors import ExportError
from .export import GraphSearch, export_graphs, prove_parity
from .interactions import Holdout
from .item_encoder import ItemEncoderPart, export_item_encoder
from .ranking import masked_items
from .text_export import TextEncoderFiles

_GOLDEN_ROWS = 16
_GOLDEN_K = 10
_TOOLS = ("torch", "onnx", "onnxruntime-gpu", "onnxscript", "numpy")


@dataclass(frozen=True)
class Package:
    """Everything an artifact is made of.

    generator      the trained network
    codes          int32 [N, L]
    item_ids       N ids; metadata one JSON object for each
    item_input     float32 [N, D], what an item adds to a history (unused by the encoder–decoder)
    item_output    float32 [N, D], item embeddings for scoring
    prefix_output  the same for prefixes of codes
    popularity     int32 [N] item indices, most popular in the training events first
    histories      real histories, int32 each, on which the graph must prove itself
    item_encoder   what takes new items; None: the artifact takes none
    text_encoder   exported files; None: new items are added by their embeddings
    refitted_from  version whose recipe this is, trained on all events; None: events were held out
    metrics_of     what is measured on, in words; None: the test set, all users
    """

    generator: Generator
    codes: CodeTable
    item_ids: list[str]
    metadata: list[dict[str, Any]]
    item_input: NDArray[np.float32]
    item_output: NDArray[np.float32]
    prefix_output: PrefixOutput
    popularity: NDArray[np.int32]
    histories: Sequence[NDArray[np.int32]]
    beam_widths: tuple[int, ...]
    default_beam_width: int
    history_buckets: tuple[int, ...]
    rescore_weight: float
    dataset: str
    training_fingerprint: str
    refitted_from: str | None = None
    metrics_of: str | None = None
    item_encoder: ItemEncoderPart | None = None
    text_encoder: TextEncoderFiles | None = None

    @property
    def temporal(self) -> bool:
        return self.generator.config.generator == "temporal"

    def catalog(self, trie: CodeTrie) -> Inputs:
        """The graph's inputs that belong to the catalog."""
        table: Inputs = {"item_input": self.item_input} if self.temporal else {"item_code": self.codes.tokens}
        return trie_inputs(trie) | table | {"item_output": self.item_output} | self.prefix_output.inputs()


Evaluate = Callable[[dict[int, GraphSearch]], dict[str, dict[str, float]]]
"""Searches through the exported graph of each beam width → method → metric → value."""


def write_artifact(target: Path, package: Package, evaluate: Evaluate | None = None) -> Artifact:
    """Exports, proves, evaluates through the graph, and only then writes the manifest and renames into place.

    Raises ExportError for a value that is not finite, and when the graph does not answer like torch and the numpy
    reference.
    """
    _refuse_not_finite(package)
    with ArtifactWriter(target) as writer:
        ids = ItemIds.build(package.item_ids)
        writer.catalog(package.codes, ids, package.metadata)
        for name in ("item_output", "popularity") + (("item_input",) if package.temporal else ()):
            writer.array(name, getattr(package, name))
        writer.prefix_output(package.prefix_output)
        _write_encoders(writer, package)
        trie = CodeTrie.build(package.codes)
        searches = _proved_searches(writer.folder, package, trie)
        writer.golden(_golden(searches[package.default_beam_width], package, trie))
        return writer.commit(
            config=package.generator.config,
            item_count=package.codes.item_count,
            beam_widths=package.beam_widths,
            default_beam_width=package.default_beam_width,
            history_buckets=package.history_buckets,
            rescore_weight=package.rescore_weight,
            item_encoder=package.item_encoder is not None,
            semantic_width=package.item_encoder.semantic.shape[1] if package.item_encoder else 0,
            text_encoder=package.text_encoder.name if package.text_encoder else None,
            dataset=package.dataset,
            training_fingerprint=package.training_fingerprint,
            refitted_from=package.refitted_from,
            metrics=evaluate(searches) if evaluate else {},
            metrics_of=package.metrics_of if evaluate else None,
            tools={name: version(name) for name in _TOOLS},
        )


def _refuse_not_finite(package: Package) -> None:
    """The proof would not see one value of an item that none of its searches comes to."""
    for name, values in _learned(package):
        if not np.isfinite(values).all():
            raise ExportError(f"{name} holds a value that is not finite; train with a lower learning rate")


def _learned(package: Package) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array that came of training, and its name in a sentence."""
    yield from ((name, getattr(package, name)) for name in ("item_output", "item_input"))
    yield "prefix_output", package.prefix_output.vectors
    yield from (("the generator", weights.numpy()) for weights in package.generator.state_dict().values())
    if (part := package.item_encoder) is not None:
        yield "codebooks", part.codebooks
        yield from () if part.token_input is None else (("token_input", part.token_input),)
        yield from (("the item encoder", weights.numpy()) for weights in part.network.state_dict().values())


def _write_encoders(writer: ArtifactWriter, package: Package) -> None:
    """What turns a new item into rows of the tables: text → embedding → vectors and code."""
    if package.text_encoder is not None:
        for name in (TEXT_ENCODER, TOKENIZER):
            shutil.copy(package.text_encoder.folder / name, writer.folder / name)
    if package.item_encoder is not None:
        export_item_encoder(package.item_encoder.network, package.item_encoder.semantic, writer.folder)
        writer.array("codebooks", package.item_encoder.codebooks)
        if package.item_encoder.token_input is not None:
            writer.array("token_input", package.item_encoder.token_input)


def search_rows(trie: CodeTrie, histories: Sequence[NDArray[np.int32]], *, exclude_seen: bool) -> list[SearchRow]:
    """Rows that may, or may not, return an item of their own history."""
    nothing = np.empty(0, dtype=np.int32)
    return [search_row(trie, history, history if exclude_seen else nothing) for history in histories]


def search_row(trie: CodeTrie, history: NDArray[np.int32], excluded: NDArray[np.int32]) -> SearchRow:
    """A row that must not return the item indices `excluded`."""
    return SearchRow(history, trie.dead_states(trie.item_leaf[excluded]) if len(excluded) else ())


def holdout_rows(holdout: Holdout, rows: NDArray[np.int64], trie: CodeTrie, *, masked: bool) -> list[SearchRow]:
    """Searches for the targets of some holdout rows."""
    nothing = np.empty(0, dtype=np.int32)
    built = []
    for row in rows.tolist():
        history = holdout.history(row)
        built.append(search_row(trie, history, masked_items(history, holdout.target[row]) if masked else nothing))
    return built


def _proved_searches(folder: Path, package: Package, trie: CodeTrie) -> dict[int, GraphSearch]:
    catalog = package.catalog(trie)
    export_graphs(package.generator, catalog, folder, package.beam_widths)
    searches: dict[int, GraphSearch] = {}
    for width in package.beam_widths:
        paths = [path for cpu in (False, True) if (path := folder / graph_file(width, cpu=cpu)).exists()]
        graphs = [GraphSearch(path, catalog, trie.code_length, package.history_buckets) for path in paths]
        for exclude_seen in (True, False):
            rows = search_rows(trie, package.histories, exclude_seen=exclude_seen)
            prove_parity(package.generator, graphs, trie, rows, width, package.rescore_weight)
        searches[width] = graphs[-1]  # the one for CPUs, where there is one: it measures
    return searches


def _golden(search: GraphSearch, package: Package, trie: CodeTrie) -> list[dict[str, Any]]:
    """Requests with the answers they must give on every machine that serves this artifact."""
    histories = package.histories[:_GOLDEN_ROWS]
    result = search(search_rows(trie, histories, exclude_seen=True), package.rescore_weight)
    return [
        {
            "history": [package.item_ids[item] for item in history.tolist()],
            "items": [package.item_ids[item] for item in items.tolist() if item >= 0],
            "scores": [score for item, score in zip(items.tolist(), scores.tolist(), strict=True) if item >= 0],
        }
        for history, items, scores in zip(
            histories, result.item[:, :_GOLDEN_K], result.score[:, :_GOLDEN_K], strict=True
        )
    ]
