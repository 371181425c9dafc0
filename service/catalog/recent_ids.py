"""Ids of trained items, the ones asked for lately remembered: most requests name and get the same few."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.item_ids import ItemIds

_LIMIT: Final = 65_536  # ids, some 10 MB


class RecentIds:
    """As `ItemIds`, which hashes every id anew. Any thread may ask; ids that no item has are not remembered."""

    def __init__(self, ids: ItemIds, limit: int = _LIMIT) -> None:
        self._ids = ids
        self._limit = limit
        self._indices: dict[str, int] = {}
        self._texts: dict[int, str] = {}

    def indices(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Item index of every id, -1 where unknown; int32 [len(ids)]."""
        remembered = self._indices
        found = [remembered.get(item_id, -1) for item_id in ids]
        if -1 in found:
            self._look_up(ids, found)
        return np.array(found, dtype=np.int32)

    def __getitem__(self, item_index: int) -> str:
        item_id = self._texts.get(item_index)
        if item_id is None:
            item_id = self._ids[item_index]
            self._remember(item_id, item_index)
        return item_id

    def _look_up(self, ids: Sequence[str], found: list[int]) -> None:
        places = [place for place, index in enumerate(found) if index < 0]
        indices = self._ids.indices([ids[place] for place in places]).tolist()
        for place, index in zip(places, indices, strict=True):
            found[place] = index
            if index >= 0:
                self._remember(ids[place], index)

    def _remember(self, item_id: str, item_index: int) -> None:
        """Begins anew when full; to know which were used last would cost every request more."""
        if len(self._indices) >= self._limit or len(self._texts) >= self._limit:
            self._indices, self._texts = {}, {}
        self._indices[item_id] = item_index
        self._texts[item_index] = item_id
