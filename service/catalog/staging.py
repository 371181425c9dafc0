"""A change of the catalog, worked out aside before anything of it is visible."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from models.attribute_values import Attribute

from .overlay import Overlay
from .records import ItemRecord

if TYPE_CHECKING:
    from .items import LiveItems

ITEM_ID: Final = "item_id"


@dataclass(frozen=True)
class AddedItem:
    """An item the model was not trained on, and must learn, or learn anew.

    code   its tokens in this model
    fresh  whether `index` is new; otherwise it was added before and its embeddings may have changed
    """

    index: int
    item_id: str
    record: ItemRecord
    code: tuple[int, ...]
    fresh: bool


@dataclass(frozen=True)
class ItemState:
    """What differs from the artifact for one item.

    metadata    JSON object, None: as in the artifact
    embeddings  tells whether an added item's embeddings are still those it was added with
    """

    available: bool
    removed: bool
    metadata: bytes | None
    embeddings: int


@dataclass(frozen=True)
class Staged:
    """A change that has been worked out.

    changed    int32, ascending: items whose availability, metadata or attributes may differ, added ones among them
    added      added items that are new or whose embeddings differ, fresh ones with the next free indices, in order
    missing    ids of added items that are not in the model: no code was given, or there is no room
    available  bool [len(changed)], what `LiveItems.available` will be for `changed`
    """

    changed: NDArray[np.int32]
    added: tuple[AddedItem, ...]
    missing: list[str]
    available: NDArray[np.bool_]
    states: Mapping[int, ItemState]
    overlay: Overlay
    before: Overlay


class Plan:
    """A change while it is worked out."""

    def __init__(self, items: "LiveItems", overlay: Overlay) -> None:
        self._items = items
        self._before = overlay
        self._states: dict[int, ItemState] = {}
        self._added: list[AddedItem] = []
        self._missing: list[str] = []
        self._rows: dict[int, dict[str, Attribute]] = {}
        self._count = overlay.count

    def take(self, record: ItemRecord, code: Sequence[int] | None) -> None:
        index = self._index(record, code)
        if index is None:
            return
        # An item that was added is nothing but its record: without `item` it is gone.
        removed = record.removed or (index >= self._items.trained and record.item is None)
        metadata = self._metadata(record, index, removed=removed)
        self._states[index] = ItemState(
            record.available and not removed,
            removed,
            None if metadata is None else encode_json(metadata),
            identity(record),
        )
        if metadata is not None:
            self._rows[index] = self._items.read_attributes(metadata)

    def staged(self) -> Staged:
        changed = np.array(sorted(self._states), dtype=np.int32)
        forget = [index for index in self._states if index not in self._rows]
        return Staged(
            changed,
            tuple(self._added),
            self._missing,
            np.array([self._states[index].available for index in changed.tolist()], dtype=bool),
            self._states,
            self._before.changed(self._count, forget, self._rows),
            self._before,
        )

    def _index(self, record: ItemRecord, code: Sequence[int] | None) -> int | None:
        """Where the item is or will be; None: it is not in this model."""
        items, item_id = self._items, record.item_id
        trained = int(items.artifact.item_ids.indices([item_id])[0])
        if trained >= 0:
            return trained
        index = items.added_index(item_id)
        if index is not None:
            self._learn_anew(index, record)
            return index
        if record.removed or record.item is None:
            return None
        if not self._fits(code):
            self._missing.append(item_id)
            return None
        return self._add(record, tuple(code or ()))

    def _fits(self, code: Sequence[int] | None) -> bool:
        config = self._items.artifact.manifest.config
        right = code is not None and len(code) == config.code_length
        return right and self._count < self._items.capacity

    def _add(self, record: ItemRecord, code: tuple[int, ...]) -> int:
        index, self._count = self._count, self._count + 1
        self._added.append(AddedItem(index, record.item_id, record, code, fresh=True))
        return index

    def _learn_anew(self, index: int, record: ItemRecord) -> None:
        state = self._items.state(index)
        if record.item is not None and not record.removed and (state is None or identity(record) != state.embeddings):
            self._added.append(AddedItem(index, record.item_id, record, self._items.code(index), fresh=False))

    def _metadata(self, record: ItemRecord, index: int, *, removed: bool) -> dict[str, Any] | None:
        """The whole metadata of the item, None: as trained."""
        trained = index < self._items.trained
        if trained and (removed or not (record.attributes or record.item)):
            return None
        base = json.loads(self._items.artifact.metadata_json(index)) if trained else {ITEM_ID: record.item_id}
        if removed:
            return base  # of an added item, of which nothing else is left
        return _patched(base | (record.item or {}), record.attributes)


def _patched(metadata: dict[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """None takes an attribute away; nothing changes an item's id."""
    patch = {name: value for name, value in attributes.items() if name != ITEM_ID}
    return {name: value for name, value in (metadata | patch).items() if name not in patch or value is not None}


def identity(record: ItemRecord) -> int:
    return hash(tuple(sorted(record.embeddings.items())))


def encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
