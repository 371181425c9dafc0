"""What a trained model shows: nothing invalid comes back, and what comes back from a search without a trie."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.codes import CodeTable
from models.graph import Inputs, SearchRow, bucket_for, trie_inputs
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie
from service.engine.search import GraphSearch, Shape

from .findings import Finding
from .post_filter import Kept

_BATCH: Final = 50
_LONGEST: Final = 100
_K: Final = 10
_MOST_CODES: Final = 20_000_000


def random_history_findings(artifact: Artifact, threads: int, count: int = 10_000) -> Iterator[Finding]:
    """Counts what must not happen, over histories of 1 to 100 random items, at the default beam width."""
    faults = dict.fromkeys(("invalid codes", "double items", "items of the history", "missing items"), 0)
    search, rng = GraphSearch(artifact, threads), np.random.default_rng(1)
    manifest = artifact.manifest
    shape = Shape(manifest.default_beam_width, manifest.history_buckets[-1], dead=512)
    for _ in range(0, count, _BATCH):
        histories = [_random_history(manifest.item_count, rng) for _ in range(_BATCH)]
        found = search.run([_without_seen(artifact.trie, history) for history in histories], shape).item
        for history, items in zip(histories, found, strict=True):
            faults["invalid codes"] += int(((items < -1) | (items >= manifest.item_count)).sum())
            faults["double items"] += len(items) - len(np.unique(items))
            faults["items of the history"] += int(np.isin(items, history).sum())
            faults["missing items"] += int((items == -1).sum())
    detail = f"{count:,} random histories of 1–{_LONGEST} items, beam {manifest.default_beam_width}"
    for what, number in faults.items():
        yield Finding("trained", what, number, "", 0.0, at_most=True, detail=detail)


def _random_history(items: int, rng: np.random.Generator) -> NDArray[np.int32]:
    longest = min(_LONGEST, items // 2)  # or a small catalog has not enough items left
    return rng.choice(items, rng.integers(1, longest + 1), replace=False).astype(np.int32)


def _without_seen(trie: CodeTrie, history: NDArray[np.int32]) -> SearchRow:
    return SearchRow(history, trie.dead_states(trie.item_leaf[history]))


def free_search_findings(
    artifact: Artifact, histories: Sequence[NDArray[np.int32]], beams: int, threads: int
) -> Iterator[Finding]:
    """The same graph over a trie of all codes there could be, ranked by code: what a search without a trie finds.

    Only for models whose V^L codes fit into memory. `histories` are item indices of the artifact.
    """
    config, items = artifact.manifest.config, artifact.manifest.item_count
    if config.tokens_per_level**config.code_length > _MOST_CODES:
        return
    search = GraphSearch(artifact, threads, _every_code(artifact))
    found = []
    for at in range(0, len(histories), _BATCH):
        rows = [SearchRow(history) for history in histories[at : at + _BATCH]]
        bucket = bucket_for(max(len(row.history) for row in rows), artifact.manifest.history_buckets)
        found.append(search.run(rows, Shape(beams, bucket, rescore=False)).item)
    named = np.concatenate(found).astype(np.int64)
    kept = Kept(np.where(named < items, named, -1))
    detail = f"{artifact.manifest.model_version}, {len(histories)} real histories, beam {beams}, {items} items"
    yield Finding("free", "invalid beams of a search without a trie", 100 * kept.invalid, "%", detail=detail)
    yield Finding("free", f"missing of {_K} items after its post-filter", 100 * kept.missing(_K), "%", detail=detail)


def _every_code(artifact: Artifact) -> Inputs:
    """Catalog inputs in which every code is an item: first the artifact's, then those that no item has."""
    config, codes = artifact.manifest.config, artifact.codes.tokens
    powers = config.tokens_per_level ** np.arange(config.code_length - 1, -1, -1, dtype=np.int64)
    rest = np.setdiff1d(np.arange(config.tokens_per_level**config.code_length), codes @ powers)
    others = (rest[:, None] // powers % config.tokens_per_level).astype(np.int32)
    every = CodeTable(np.concatenate([codes, others]), config.tokens_per_level)
    trie = CodeTrie.build(every)
    inputs = trie_inputs(trie) | PrefixOutput.of_first_items(trie, config.width).inputs()
    for name in ("item_output", "item_input"):
        table = artifact.array(name)
        inputs[name] = np.concatenate([table, np.zeros((len(others), table.shape[1]), dtype=table.dtype)])
    return inputs | {"item_code": every.tokens}
