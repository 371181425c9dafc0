"""One artifact's items as queries see them: ids in, ids out, and what must not come back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.graph import SearchRow, bucket_for
from service import metrics
from service.errors import BadBeamWidth, BadK, EngineFailed
from service.frames import Answer, Query

from .search import Shape, dead_class


@dataclass(frozen=True)
class Request:
    """A query in the terms of this artifact.

    history   int32 [used], the newest known items, oldest first; empty: nothing to search with
    excluded  item indices that must not come back
    unknown, truncated  history items that are not in the catalog, and known ones older than the network reads
    """

    query: Query
    width: int
    history: NDArray[np.int32]
    excluded: NDArray[np.int32]
    unknown: int
    truncated: int

    @property
    def popular(self) -> bool:
        """Whether popularity has to answer, because the history says nothing."""
        return not self.history.size


@dataclass(frozen=True)
class Place:
    """What the search found for one row; arrays as in `Found`, with the times its answer reports."""

    item: NDArray[np.int32]
    score: NDArray[np.float32]
    code_score: NDArray[np.float32]
    queue_s: float = 0.0
    batch_s: float = 0.0
    run_s: float = 0.0
    batch_rows: int = 1


class Catalog:
    """Items of one artifact; every method is quick enough for an event loop at usual history lengths."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._manifest = artifact.manifest
        self._popularity = artifact.array("popularity")
        self.item_count = artifact.manifest.item_count

    def read(self, query: Query) -> Request:
        """Looks every id up; raises BadK or BadBeamWidth for what no graph of the artifact can give."""
        width = self._width(query.k, query.beam_width)
        seen = self._artifact.item_ids.indices(query.history)
        known = seen[seen >= 0]
        history = known[-self._manifest.config.history_length :]
        return Request(
            query,
            width,
            history,
            self._excluded(query, known),
            unknown=len(seen) - len(known),
            truncated=len(known) - len(history),
        )

    def search_row(self, request: Request) -> tuple[SearchRow, Shape]:
        """What the search is to do for a request that is not `popular`."""
        trie = self._artifact.trie
        dead = trie.dead_states(trie.item_leaf[request.excluded]) if request.excluded.size else ()
        row = SearchRow(request.history, dead)
        bucket = bucket_for(len(row.history), self._manifest.history_buckets)
        query = request.query
        return row, Shape(request.width, bucket, dead_class(row), query.rescore, query.alone)

    def answer(self, request: Request, place: Place) -> Answer:
        """The first `k` legal items found.

        Raises EngineFailed where the search returned an item twice, an excluded one, or fewer than there are: a broken
        graph must not look like a short answer.
        """
        found = place.item[place.item >= 0][: request.query.k]
        if fault := self._fault(request, found):
            metrics.INVALID_CODES.inc()
            raise EngineFailed(f"the search returned {fault}")
        count = len(found)
        answer = self._answer(request, found, place.score[:count].tolist(), "model")
        answer.code_scores = place.code_score[:count].tolist()
        answer.queue_s, answer.batch_s, answer.run_s = place.queue_s, place.batch_s, place.run_s
        answer.batch_rows = place.batch_rows
        return answer

    def popular(self, request: Request) -> Answer:
        """The most popular legal items; the score of popularity rank r = 0, 1, … is 1 / (1 + r)."""
        enough = request.query.k + len(request.excluded)
        legal = np.flatnonzero(~np.isin(self._popularity[:enough], request.excluded))[: request.query.k]
        return self._answer(request, self._popularity[legal], (1.0 / (1.0 + legal)).tolist(), "popular")

    def _width(self, k: int, beam_width: int | None) -> int:
        """The smallest of the artifact's beam widths that is wide enough."""
        widths = self._manifest.beam_widths
        if not 1 <= k <= widths[-1]:
            raise BadK(f"k is {k}, it must be between 1 and {widths[-1]}")
        wanted = max(k, self._manifest.default_beam_width if beam_width is None else beam_width)
        if wanted > widths[-1]:
            raise BadBeamWidth(f"beam_width is {beam_width}, the largest of this model is {widths[-1]}")
        return bucket_for(wanted, widths)

    def _excluded(self, query: Query, known: NDArray[np.int32]) -> NDArray[np.int32]:
        """Sorted, each once; ids the catalog does not know cannot come back anyway."""
        named = self._artifact.item_ids.indices(query.exclude)
        named = named[named >= 0]
        return np.unique(np.concatenate([named, known])) if query.exclude_seen else np.unique(named)

    def _fault(self, request: Request, found: NDArray[np.int32]) -> str | None:
        items = set(found.tolist())
        legal = self.item_count - len(request.excluded)
        if len(items) < len(found):
            return "an item twice"
        if not items.isdisjoint(request.excluded.tolist()):
            return "an excluded item"
        if len(found) < min(request.query.k, legal):
            return f"{len(found)} items where {min(request.query.k, legal)} are legal"
        return None

    def _answer(self, request: Request, items: NDArray[np.int32], scores: list[float], source: str) -> Answer:
        query, found = request.query, items.tolist()
        return Answer(
            query.query_id,
            item_ids=[self._artifact.item_ids[item] for item in found],
            scores=scores,
            code_scores=[],
            source=source,
            exhausted=len(found) < query.k,
            used=len(request.history),
            unknown=request.unknown,
            truncated=request.truncated,
            metadata=self._metadata(found) if query.with_metadata else None,
            codes=self._artifact.codes.tokens[items].tolist() if query.with_codes else None,
        )

    def _metadata(self, items: Sequence[int]) -> list[bytes]:
        return [self._artifact.metadata_json(item) for item in items]
