"""The search over the live catalog, and the only two ways to change what it reads: a filter compiled, a change applied.

Both happen on one thread, the catalog thread, one after the other, so that a filter that is compiled while the catalog
changes counts the change either wholly or not yet, and is patched then like every other.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.graph import SearchRow
from models.insertion import insert
from service import metrics
from service.catalog.filters import Matcher
from service.catalog.items import AddedItem, LiveItems
from service.catalog.records import ItemRecord
from service.frames import Condition

from .index import LiveIndex, Patch, State
from .newcomers import Newcomers
from .search import CatalogSearch, Found, Shape

Between = Callable[[Callable[[], None]], None]
"""Runs something between two batches, and returns when it has run."""


class LiveSearch:
    """`run` belongs to the search thread, everything else to the catalog thread."""

    def __init__(self, graph: CatalogSearch, items: LiveItems, index: LiveIndex, newcomers: Newcomers) -> None:
        self._graph = graph
        self._items = items
        self.index = index
        self.newcomers = newcomers
        self._matchers: dict[int, Matcher] = {}  # of slots that hold a filter

    @property
    def provider(self) -> str:
        return self._graph.provider

    @property
    def warm_rows(self) -> Sequence[int]:
        return self._graph.warm_rows

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> Found:
        """As `Search.run`; says of every item whether the row's slot allows it."""
        found = self._graph.run(rows, shape)
        state = self.index.state
        slot = np.fromiter((row.slot for row in rows), dtype=np.int64, count=len(rows))
        leaves = state.trie.item_leaf[np.maximum(found.item, 0)]
        legal = state.counts[-1][slot[:, None], leaves] > 0
        return replace(found, legal=legal | (found.item < 0))

    def compile(self, slot: int, conditions: Sequence[Condition], include_items: Sequence[str] | None) -> None:
        """Puts a filter into a slot that no search uses; raises BadFilter."""
        started = time.perf_counter()
        matcher = self._items.matcher(conditions, include_items)
        if include_items is None:
            self.index.fill(slot, self._legal(matcher, None))
        else:
            items = self._known(include_items)
            self.index.fill_few(slot, items[self._legal(matcher, items)])
        self.index.state.warnings[slot] = matcher.warnings()
        self._matchers[slot] = matcher
        self._graph.send_slots(self.index.state.counts, [slot])
        metrics.FILTER_COMPILE.observe(time.perf_counter() - started)

    def apply(
        self, revision: int, records: Sequence[ItemRecord], codes: dict[str, list[int]], between: Between
    ) -> list[str]:
        """Makes records count, and adds items that have a code; returns added items that cannot come back yet."""
        started = time.perf_counter()
        state, use = self.index.state, _nothing
        learnable = self.newcomers.learnable(records, codes)
        known = {item_id: code for item_id, code in codes.items() if item_id in learnable}
        staged = self._items.stage(records, self.newcomers.acceptable(known, state.trie))
        fresh = [item for item in staged.added if item.fresh]
        again = [item for item in staged.added if not item.fresh and item.item_id in learnable]
        write, rewrite = self.newcomers.learn(fresh), self.newcomers.learn(again)
        write()  # rows that nobody reads yet
        if fresh:
            self._send_rows(fresh)
            state = self._with_leaves(fresh)
            use = self._graph.bind(self.index.grown_inputs(state))
        self._items.commit(staged)  # as late as can be: items and trie are not to differ for long, nor after a failure
        patches = self._patches(state, staged.changed)
        warnings = {slot: matcher.warnings() for slot, matcher in self._matchers.items()}
        state = replace(state, warnings=warnings)

        def show() -> None:
            use()
            rewrite()
            self.index.show(state, patches, revision)
            self._graph.send_slots(self.index.state.counts, [patch.slot for patch in patches])
            if again:
                self._send_rows(again)

        between(show)
        metrics.CATALOG_APPLY.observe(time.perf_counter() - started)
        return staged.missing

    def propose(
        self, records: Sequence[ItemRecord], taken: Sequence[Sequence[int]] = ()
    ) -> tuple[dict[str, list[int]], dict[str, str]]:
        """(item id → a code that is free and not `taken`, item id → why it can have none); nothing changes."""
        return self.newcomers.propose(records, self.index.state.trie, taken)

    def _send_rows(self, items: Sequence[AddedItem]) -> None:
        self._graph.send_rows(self.index.tables.inputs(), [item.index for item in items])

    def _with_leaves(self, fresh: Sequence[AddedItem]) -> State:
        codes = np.array([item.code for item in fresh], dtype=np.int32)
        items = np.array([item.index for item in fresh], dtype=np.int32)
        return self.index.grown(insert(self.index.state.trie, codes, items), items, [0, *self._matchers])

    def _patches(self, state: State, items: NDArray[np.int32]) -> list[Patch]:
        """What the changed items change in every slot that holds something."""
        available = self._items.available[items]
        legal = {0: available} | {slot: available & matches(items) for slot, matches in self._matchers.items()}
        at = self.index.whereabouts(state, items)
        patches = (self.index.difference(state, slot, at, mask) for slot, mask in legal.items())
        return [patch for patch in patches if patch]

    def _legal(self, matcher: Matcher, items: NDArray[np.int32] | None) -> NDArray[np.bool_]:
        available = self._items.available[: self._items.count] if items is None else self._items.available[items]
        return np.asarray(matcher(items) & available)

    def _known(self, ids: Sequence[str]) -> NDArray[np.int32]:
        found = self._items.indices(ids)
        return np.unique(found[found >= 0])


def _nothing() -> None:
    pass
