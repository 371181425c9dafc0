"""What searches read of the catalog: the trie, and for every filter slot how many legal leaves each state has.

One thread, the catalog thread, works changes out and compiles filters; changes are shown by the search thread between
two batches (`show`), so that no run sees half of one. The event loop reads under `lock`.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.graph import Inputs, trie_inputs
from models.insertion import Insertion, spread
from models.prefix_output import PrefixOutput
from models.tables import with_spare_rows
from models.trie import CodeTrie

RANKED_BLOCK: Final = 4096
"""Places of the order of popularity whose legal items are counted together."""
_MOST_SLOTS: Final = 1024
_AVAILABLE: Final = 0  # the slot in which every available item is legal


@dataclass(frozen=True)
class State:
    """The catalog as of one change.

    generation  grows with every change, so that who prepared something for the search can tell that it is outdated
    revision    catalog revision of the last change
    counts      L arrays, int32 [F, S_{l+1}]: legal leaves below each state, for each filter slot
    totals      int64 [F]: legal items of each slot
    ranked      bool [F, P]: is the item at that place of the order of popularity legal; P is N + spare in whole blocks
    blocks      int32 [F, P / RANKED_BLOCK]: legal items of each block of `ranked`
    warnings    slot → sentences for clients about its filter
    """

    generation: int
    revision: int
    trie: CodeTrie
    prefixes: PrefixOutput
    counts: tuple[NDArray[np.int32], ...]
    totals: NDArray[np.int64]
    ranked: NDArray[np.bool_]
    blocks: NDArray[np.int32]
    warnings: dict[int, list[str]]

    def slot_counts(self, slot: int) -> list[NDArray[np.int32]]:
        """The counts of one slot, as `CodeTrie.dead_states` takes them."""
        return [counts[slot] for counts in self.counts]

    def legal_leaves(self, slot: int, items: NDArray[np.int32]) -> NDArray[np.int32]:
        """Leaves of those of `items` that are legal in the slot."""
        leaves = self.trie.item_leaf[items]
        legal: NDArray[np.int32] = leaves[self.counts[-1][slot, leaves] > 0]
        return legal


@dataclass(frozen=True)
class Whereabouts:
    """Where some items (each once) are.

    path    L arrays, int32 [M]: state of levels 1 … L on the way to each item's leaf
    places  int32 [M], in the order of popularity
    """

    path: Sequence[NDArray[np.int32]]
    places: NDArray[np.int32]


@dataclass(frozen=True)
class Patch:
    """Items of one slot that become legal or stop being so; `legal` is bool [M]."""

    slot: int
    items: Whereabouts
    legal: NDArray[np.bool_]


class Tables:
    """What the network and answers read of each item, with room for items that are added; rows are item indices."""

    def __init__(self, artifact: Artifact, spare: int) -> None:
        folder = artifact.folder
        self.codes: NDArray[np.int32] = with_spare_rows(folder / "codes.npy", spare)
        self.item_output: NDArray[np.float32] = with_spare_rows(folder / "item_output.npy", spare)
        self.item_input: NDArray[np.float32] | None = None  # the encoder–decoder reads codes
        if artifact.manifest.config.generator == "temporal":
            self.item_input = with_spare_rows(folder / "item_input.npy", spare)

    def inputs(self) -> Inputs:
        """As the graph names them."""
        table = {"item_code": self.codes} if self.item_input is None else {"item_input": self.item_input}
        return {"item_output": self.item_output, **table}


class LiveIndex:
    """The state now, and the only ways to another one."""

    def __init__(self, artifact: Artifact, *, spare_items: int, cache_bytes: int) -> None:
        self.tables = Tables(artifact, spare_items)
        self.lock = threading.Lock()
        self._popularity = artifact.array("popularity")
        self._rank = np.empty(self._popularity.size, dtype=np.int32)
        self._rank[self._popularity] = np.arange(self._popularity.size, dtype=np.int32)
        trie = artifact.trie
        block_count = -(-(trie.item_count + spare_items) // RANKED_BLOCK)
        self.slot_bytes = 4 * sum(trie.states()[1:]) + (RANKED_BLOCK + 4) * block_count
        self.slot_count = int(np.clip(cache_bytes // self.slot_bytes, 2, _MOST_SLOTS))
        counts = self._no_counts(trie)
        ranked = np.zeros((self.slot_count, block_count * RANKED_BLOCK), dtype=np.bool_)
        blocks = np.zeros((self.slot_count, block_count), dtype=np.int32)
        totals = np.zeros(self.slot_count, dtype=np.int64)
        self.state = State(0, 0, trie, artifact.prefix_output, counts, totals, ranked, blocks, {})
        self.fill(_AVAILABLE, np.ones(trie.item_count, dtype=np.bool_))

    @property
    def filter_slots(self) -> int:
        """All but the one for queries without a filter."""
        return self.slot_count - 1

    def inputs(self, state: State) -> Inputs:
        """What the graph is to be fed in a state."""
        return self.tables.inputs() | {"prefix_output": state.prefixes.vectors} | self.grown_inputs(state)

    def grown_inputs(self, state: State) -> Inputs:
        """The same without item tables and vectors of prefixes, where added items are new rows or nothing new."""
        prefixes = {name: array for name, array in state.prefixes.inputs().items() if name != "prefix_output"}
        alive = {f"alive_{level}": counts for level, counts in enumerate(state.counts)}
        return trie_inputs(state.trie) | prefixes | alive

    def items_at(self, places: NDArray[np.int64]) -> NDArray[np.int32]:
        """Items at places of the order of popularity; those that were added come after all others."""
        trained = self._popularity.size
        known = self._popularity[np.minimum(places, trained - 1)]
        return np.where(places < trained, known, places).astype(np.int32)

    # ---- on the catalog thread

    def fill(self, slot: int, legal: NDArray[np.bool_]) -> None:
        """Writes a whole slot that no search uses; `legal` is bool over all items."""
        state, trained = self.state, self._popularity.size
        counts = state.trie.count_leaves(legal[state.trie.leaf_item])
        for row, level in zip(state.slot_counts(slot), counts, strict=True):
            row[:] = level
        state.totals[slot] = counts[0].sum(dtype=np.int64)
        ranked = state.ranked[slot]
        ranked[:trained] = legal[self._popularity]
        ranked[trained : legal.size] = legal[trained:]
        ranked[legal.size :] = False
        state.blocks[slot] = np.count_nonzero(ranked.reshape(-1, RANKED_BLOCK), axis=1)

    def fill_few(self, slot: int, items: NDArray[np.int32]) -> None:
        """As `fill`, where only the few `items` (int32, each once) are legal."""
        state = self.state
        rows = state.slot_counts(slot)
        for row in (*rows, state.ranked[slot], state.blocks[slot]):
            row[:] = 0
        state.totals[slot] = 0
        _add(state, Patch(slot, self.whereabouts(state, items), np.ones(items.size, dtype=np.bool_)))

    def grown(self, insertion: Insertion, items: NDArray[np.int32], slots: Sequence[int]) -> State:
        """This state with an insertion of `items`, in new arrays; none of the new leaves is legal yet."""
        state = self.state
        counts = self._no_counts(insertion.trie)
        for level, before in enumerate(insertion.before):
            for slot in slots:
                spread(state.counts[level][slot], before, 0, out=counts[level][slot])
        return replace(state, trie=insertion.trie, prefixes=state.prefixes.grown(insertion, items), counts=counts)

    def whereabouts(self, state: State, items: NDArray[np.int32]) -> Whereabouts:
        trained = self._popularity.size
        places = np.where(items < trained, self._rank[np.minimum(items, trained - 1)], items)
        return Whereabouts(state.trie.ancestors(state.trie.item_leaf[items]), places)

    @staticmethod
    def difference(state: State, slot: int, items: Whereabouts, legal: NDArray[np.bool_]) -> Patch | None:
        """What has to change for each of the items to be as `legal` says; None: nothing."""
        differs = (state.counts[-1][slot, items.path[-1]] > 0) != legal
        if not differs.any():
            return None
        changed = Whereabouts([states[differs] for states in items.path], items.places[differs])
        return Patch(slot, changed, legal[differs])

    # ---- on the search thread, between two batches

    def show(self, state: State, patches: Sequence[Patch], revision: int) -> None:
        """Makes `state`, patched, the one that everybody reads."""
        with self.lock:
            for patch in patches:
                _add(state, patch)
            self.state = replace(state, generation=self.state.generation + 1, revision=revision)

    def _no_counts(self, trie: CodeTrie) -> tuple[NDArray[np.int32], ...]:
        """Pages that are not written to cost no memory."""
        return tuple(np.zeros((self.slot_count, size), dtype=np.int32) for size in trie.states()[1:])


def _add(state: State, patch: Patch) -> None:
    steps = np.where(patch.legal, 1, -1).astype(np.int32)
    for counts, states in zip(state.counts, patch.items.path, strict=True):
        np.add.at(counts[patch.slot], states, steps)
    state.totals[patch.slot] += int(steps.sum())
    state.ranked[patch.slot, patch.items.places] = patch.legal
    np.add.at(state.blocks[patch.slot], patch.items.places // RANKED_BLOCK, steps)
