"""One artifact's items as queries see them: ids in, ids out, and what must not come back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.attribute_values import FieldKind
from models.graph import SearchRow, bucket_for
from service import metrics
from service.catalog.filters import read_conditions
from service.catalog.items import LiveItems
from service.errors import BadBeamWidth, BadK, EngineFailed
from service.frames import Answer, Condition, Query

from .explain import explain
from .index import LiveIndex, State
from .popularity import most_popular
from .search import Found, Shape, dead_class
from .selection import Selection, select

NO_FILTER = 0
_NOTHING: NDArray[np.int32] = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Request:
    """A query in the terms of this artifact.

    history   int32 [used], the newest known items, oldest first; empty: nothing to search with
    excluded  item indices that must not come back, ascending
    unknown, truncated  history items that are not in the catalog, and known ones older than the network reads
    strangers           ids of `exclude` that are not in the catalog
    """

    query: Query
    width: int
    history: NDArray[np.int32]
    excluded: NDArray[np.int32]
    unknown: int
    truncated: int
    strangers: int

    @property
    def popular(self) -> bool:
        """Whether popularity has to answer, because the history says nothing."""
        return not self.history.size


@dataclass(frozen=True)
class Prepared:
    """A request, and what the search is to do for it, in one state of the catalog.

    legal       how many items may come back
    generation  of the catalog; in another one all of this may be wrong
    warnings    sentences for the client about the filter
    row, shape  for the search; a request may also turn `popular` in the queue, when all of its history is removed
    """

    request: Request
    legal: int
    generation: int
    revision: int
    warnings: Sequence[str]
    row: SearchRow
    shape: Shape


@dataclass(eq=False)
class Ticket:
    """A query on its way through the queue. What was prepared for it is replaced when the catalog changes meanwhile."""

    query: Query
    slot: int
    prepared: Prepared


@dataclass(frozen=True)
class FoundRow:
    """What the search found for one row; arrays as in `Found`, with the times its answer reports."""

    item: NDArray[np.int32]
    score: NDArray[np.float32]
    code_score: NDArray[np.float32]
    prefix_score: NDArray[np.float32]
    legal: NDArray[np.bool_]
    queue_s: float = 0.0
    batch_s: float = 0.0
    run_s: float = 0.0
    batch_rows: int = 1

    @classmethod
    def of(cls, found: Found, row: int, **times: Any) -> "FoundRow":
        """One row of a batch."""
        arrays = (found.item, found.score, found.code_score, found.prefix_score, found.legal)
        return cls(*(array[row] for array in arrays), **times)


class Catalog:
    """Items of one artifact; every method is quick enough for an event loop at usual history lengths."""

    def __init__(self, artifact: Artifact, items: LiveItems, index: LiveIndex) -> None:
        self._manifest = artifact.manifest
        self._items = items
        self._index = index

    @property
    def fields(self) -> dict[str, FieldKind]:
        """What can be filtered by now."""
        return self._items.fields

    def check(self, conditions: Sequence[Condition]) -> None:
        """Raises BadFilter for conditions that cannot be compiled as the catalog is now."""
        read_conditions(self._items, conditions)

    def ticket(self, query: Query, slot: int = NO_FILTER) -> Ticket:
        """Looks every id up and works out what the search has to avoid; `slot` holds the query's filter.

        Raises BadK or BadBeamWidth for what no graph of the artifact can give.
        """
        return Ticket(query, slot, self._prepare(query, slot))

    def refresh(self, ticket: Ticket) -> tuple[SearchRow, Shape] | None:
        """On the search thread, before a ticket's row runs: what it has become; None where it is up to date."""
        if ticket.prepared.generation == self._index.state.generation:
            return None
        ticket.prepared = self._prepare(ticket.query, ticket.slot)
        return ticket.prepared.row, ticket.prepared.shape

    def answer(self, ticket: Ticket, row: FoundRow) -> Answer:
        """The first `k` legal items found.

        Raises EngineFailed where the search returned an item twice, one that is not legal, or fewer than there are: a
        broken graph must not look like a short answer.
        """
        prepared = ticket.prepared
        found = row.item[row.item >= 0]
        if fault := self._fault(prepared, found, row.legal):
            metrics.INVALID_CODES.inc()
            raise EngineFailed(f"the search returned {fault}")
        selection = self._select(ticket.query, found, row.score)
        answer = self._answer(prepared, found[selection.places], row.score[selection.places], selection, "model")
        answer.code_scores = row.code_score[selection.places].tolist()
        if ticket.query.with_explain:
            trail = row.prefix_score[selection.places]
            answer.explanations = explain(
                self._items, self._index.tables.codes, found[selection.places], prepared.request.history, trail
            )
        answer.queue_s, answer.batch_s, answer.run_s = row.queue_s, row.batch_s, row.run_s
        answer.batch_rows = row.batch_rows
        return answer

    def popular(self, ticket: Ticket) -> Answer:
        """The most popular legal items; the score of popularity rank r = 0, 1, … is 1 / (1 + r)."""
        query = ticket.query
        with self._index.lock:
            prepared = ticket.prepared = self._prepared(query, ticket.slot)
            enough = prepared.request.width if query.diversity else query.k
            places = most_popular(self._index, ticket.slot, prepared.request.excluded, enough)
        items, scores = self._index.items_at(places), (1.0 / (1.0 + places)).astype(np.float64)
        selection = self._select(query, items, scores)
        answer = self._answer(prepared, items[selection.places], scores[selection.places], selection, "popular")
        if query.with_explain:
            answer.explanations = explain(
                self._items, self._index.tables.codes, items[selection.places], prepared.request.history, None
            )
        return answer

    def _prepare(self, query: Query, slot: int) -> Prepared:
        with self._index.lock:
            return self._prepared(query, slot)

    def _prepared(self, query: Query, slot: int) -> Prepared:
        state = self._index.state
        request = self._read(query, state)
        gone = state.legal_leaves(slot, request.excluded)
        legal = int(state.totals[slot]) - gone.size
        dead = state.trie.dead_states(gone, state.slot_counts(slot)) if gone.size else ()
        row = SearchRow(request.history, dead, slot)
        bucket = bucket_for(len(row.history), self._manifest.history_buckets)
        shape = Shape(request.width, bucket, dead_class(row), alone=query.alone)
        return Prepared(request, legal, state.generation, state.revision, state.warnings.get(slot, ()), row, shape)

    def _read(self, query: Query, state: State) -> Request:
        width = self._width(query)
        seen = self._places(query.history, state)
        known = self._items.without_removed(seen)
        known = known[known >= 0]
        history = known[-self._manifest.config.history_length :]
        unwanted = self._places(query.exclude, state) if query.exclude else _NOTHING
        return Request(
            query,
            width,
            history,
            _excluded(unwanted, seen if query.exclude_seen else _NOTHING),
            unknown=len(seen) - len(known),
            truncated=len(known) - len(history),
            strangers=int(np.count_nonzero(unwanted < 0)),
        )

    def _places(self, ids: Sequence[str], state: State) -> NDArray[np.int32]:
        """As `LiveItems.places`; of items that are about to be added the trie knows nothing yet."""
        found = self._items.places(ids)
        if self._items.count > state.trie.item_count:
            found[found >= state.trie.item_count] = -1
        return found

    def _width(self, query: Query) -> int:
        """The smallest of the artifact's beam widths that is wide enough, for diversity the next one."""
        widths = self._manifest.beam_widths
        if not 1 <= query.k <= widths[-1]:
            raise BadK(f"k is {query.k}, it must be between 1 and {widths[-1]}")
        wanted = max(query.k, self._manifest.default_beam_width if query.beam_width is None else query.beam_width)
        if wanted > widths[-1]:
            raise BadBeamWidth(f"beam_width is {query.beam_width}, the largest of this model is {widths[-1]}")
        width = bucket_for(wanted, widths)
        return bucket_for(width + 1, widths) if query.diversity else width

    def _fault(self, prepared: Prepared, found: NDArray[np.int32], legal: NDArray[np.bool_]) -> str | None:
        items = set(found.tolist())
        wanted = min(prepared.request.query.k, prepared.legal)
        if len(items) < len(found):
            return "an item twice"
        if not items.isdisjoint(prepared.request.excluded.tolist()):
            return "an excluded item"
        if not legal[: len(found)].all():
            return "an item that is unavailable or does not match the filter"
        if len(found) < wanted:
            return f"{len(found)} items where {wanted} are legal"
        return None

    def _select(
        self, query: Query, items: NDArray[np.int32], scores: NDArray[np.float32] | NDArray[np.float64]
    ) -> Selection:
        first_tokens = self._index.tables.codes[items, 0] if query.diversity else None
        return select(scores[: len(items)], first_tokens, query)

    def _answer(
        self,
        prepared: Prepared,
        items: NDArray[np.int32],
        scores: NDArray[np.float32] | NDArray[np.float64],
        selection: Selection,
        source: str,
    ) -> Answer:
        query, request, found = prepared.request.query, prepared.request, items.tolist()
        return Answer(
            query.query_id,
            item_ids=[self._items.item_id(item) for item in found],
            scores=scores.tolist(),
            code_scores=[],
            source=source,
            exhausted=prepared.legal < query.k,
            used=len(request.history),
            unknown=request.unknown,
            truncated=request.truncated,
            metadata=[self._items.metadata_json(item) for item in found] if query.with_metadata else None,
            codes=self._index.tables.codes[items].tolist() if query.with_codes else None,
            catalog_revision=prepared.revision,
            warnings=[
                *_strangers("exclude", request.strangers),
                *_strangers("include_items", self._unknown_included(query)),
                *prepared.warnings,
                *selection.warnings,
            ],
        )

    def _unknown_included(self, query: Query) -> int:
        """How many of `include_items` are no items."""
        return int((self._items.indices(query.include_items) < 0).sum()) if query.include_items else 0


def _excluded(unwanted: NDArray[np.int32], seen: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sorted, each once; ids the catalog does not know cannot come back anyway.

    Removed items are among them: until the removal is shown, a state may hold them legal.
    """
    excluded = {*unwanted.tolist(), *seen.tolist()}
    excluded.discard(-1)
    return np.array(sorted(excluded), dtype=np.int32)


def _strangers(field: str, count: int) -> list[str]:
    """A warning of ids that are not in the catalog."""
    return [f"{count} of {field} {'is' if count == 1 else 'are'} not in the catalog"] if count else []
