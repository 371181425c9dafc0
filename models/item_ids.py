"""Item ids ↔ item indices without a Python object per item, so that ten million ids are a few mapped arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError


@dataclass(frozen=True)
class ItemIds:
    """Ids in index order, and a hash index over them.

    text         uint8 [bytes], all ids' UTF-8 one after the other
    bounds       int64 [N + 1], id i is text[bounds[i]:bounds[i + 1]]
    sorted_hash  uint64 [N], ascending
    hash_item    int32 [N], item index of each sorted hash
    """

    text: NDArray[np.uint8]
    bounds: NDArray[np.int64]
    sorted_hash: NDArray[np.uint64]
    hash_item: NDArray[np.int32]

    @classmethod
    def build(cls, ids: Sequence[str]) -> "ItemIds":
        """Raises ModelError for an empty id or an id given twice."""
        encoded = [item_id.encode() for item_id in ids]
        lengths = np.fromiter((len(e) for e in encoded), dtype=np.int64, count=len(encoded))
        if not lengths.all():
            raise ModelError(f"item {int(np.flatnonzero(lengths == 0)[0])} has an empty id")
        hashes = _hashes(encoded)
        order = np.argsort(hashes, kind="stable")
        table = cls(
            np.frombuffer(b"".join(encoded), dtype=np.uint8),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            hashes[order],
            order.astype(np.int32),
        )
        table._refuse_twins(encoded)
        return table

    def __len__(self) -> int:
        return int(self.hash_item.size)

    def __getitem__(self, item_index: int) -> str:
        return bytes(self.text[self.bounds[item_index] : self.bounds[item_index + 1]]).decode()

    def indices(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Item index of every id, -1 where unknown; int32 [len(ids)]."""
        found = np.full(len(ids), -1, dtype=np.int32)
        if not len(ids) or not len(self):
            return found
        encoded = [item_id.encode(errors="surrogatepass") for item_id in ids]
        hashes = _hashes(encoded)
        rows = np.searchsorted(self.sorted_hash, hashes)
        places = np.arange(len(ids))
        while len(places):  # ids whose 64-bit hashes collide sit in neighbouring rows
            same = np.flatnonzero(rows < len(self))
            same = same[self.sorted_hash[rows[same]] == hashes[places[same]]]
            rows, places = rows[same], places[same]
            items = self.hash_item[rows]
            right = self._are(items, [encoded[place] for place in places.tolist()])
            found[places[right]] = items[right]
            rows, places = rows[~right] + 1, places[~right]
        return found

    def _are(self, items: NDArray[np.int32], wanted: Sequence[bytes]) -> NDArray[np.bool_]:
        """Whether each item's id is the one wanted; one pass without an array for each, as histories are long."""
        text, starts, ends = self.text.data, self.bounds[items].tolist(), self.bounds[items + 1].tolist()
        same = [text[start:end] == one for start, end, one in zip(starts, ends, wanted, strict=True)]
        return np.array(same, dtype=np.bool_)

    def _refuse_twins(self, encoded: Sequence[bytes]) -> None:
        same = np.flatnonzero(self.sorted_hash[1:] == self.sorted_hash[:-1])
        suspects = [encoded[i] for row in same for i in (self.hash_item[row], self.hash_item[row + 1])]
        for row in range(0, len(suspects), 2):
            if suspects[row] == suspects[row + 1]:
                raise ModelError(f"item id {suspects[row].decode()!r} is given twice")


def _hashes(encoded: Iterable[bytes]) -> NDArray[np.uint64]:
    digests = b"".join(blake2b(e, digest_size=8).digest() for e in encoded)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
