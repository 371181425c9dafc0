"""The most popular legal items, without a look at every item's filter: each slot keeps its items in that order."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .index import RANKED_BLOCK, LiveIndex, State

_GROWTH: Final = 8


def most_popular(index: LiveIndex, slot: int, excluded: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Places, ascending, of the first `count` items of a slot that are not `excluded`; fewer where there are no more.

    To be called under the index's lock. Of the order of popularity only blocks with a legal item are read, one at first
    and then more at a time: where a rare filter leaves three of ten million items, three at most.
    """
    blocks = np.flatnonzero(index.state.blocks[slot])
    found: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    missing, begin, size = count, 0, 1
    while missing > 0 and begin < blocks.size:
        places = _legal_places(index.state, slot, blocks[begin : begin + size])
        if excluded.size:
            places = places[np.isin(index.items_at(places), excluded, invert=True)]
        found.append(places[:missing])
        missing -= len(found[-1])
        begin, size = begin + size, size * _GROWTH
    return np.concatenate(found)


def _legal_places(state: State, slot: int, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places, ascending, of the legal items of these blocks (int64, ascending)."""
    legal = state.ranked[slot].reshape(-1, RANKED_BLOCK)[blocks]
    passed_over = (blocks - np.arange(blocks.size)) * RANKED_BLOCK
    return np.flatnonzero(legal) + np.repeat(passed_over, state.blocks[slot, blocks])
