"""What a trained model shows: nothing invalid comes back, and what comes back from a search without a trie."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.graph import SearchRow, bucket_for
from service.engine.search import GraphSearch, Shape

from .any_code import AnyCodeSearch
from .findings import Finding
from .gpu_folder import unseen_rows
from .post_filter import CodeIndex, Kept

_BATCH: Final = 50
_LONGEST: Final = 100
_K: Final = 10


def random_history_findings(artifact: Artifact, threads: int, count: int = 10_000) -> Iterator[Finding]:
    """Counts what must not happen, over histories of 1 to 100 random items, at the default beam width."""
    faults = dict.fromkeys(("invalid codes", "double items", "items of the history", "missing items"), 0)
    search, rng = GraphSearch(artifact, threads), np.random.default_rng(1)
    manifest = artifact.manifest
    shape = Shape(manifest.default_beam_width, manifest.history_buckets[-1], dead=512)
    for _ in range(0, count, _BATCH):
        histories = [_random_history(manifest.item_count, rng) for _ in range(_BATCH)]
        found = search.run(unseen_rows(artifact, histories), shape).item
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


def free_search_findings(
    artifact: Artifact, histories: Sequence[NDArray[np.int32]], beams: int, threads: int
) -> Iterator[Finding]:
    """What the same graph finds without a trie, ranked by code; `histories` are item indices of the artifact."""
    search, index, found = AnyCodeSearch(artifact, threads), CodeIndex(artifact.codes), []
    for at in range(0, len(histories), _BATCH):
        rows = [SearchRow(history) for history in histories[at : at + _BATCH]]
        bucket = bucket_for(max(len(row.history) for row in rows), artifact.manifest.history_buckets)
        found.append(index.items(search.run(rows, Shape(beams, bucket, rescore=False))).item)
    kept, manifest = Kept(np.concatenate(found)), artifact.manifest
    detail = f"{manifest.model_version}, {len(histories)} real histories, beam {beams}, {manifest.item_count} items"
    yield Finding("free", "invalid beams of a search without a trie", 100 * kept.invalid, "%", detail=detail)
    yield Finding("free", f"missing of {_K} items after its post-filter", 100 * kept.missing(_K), "%", detail=detail)
