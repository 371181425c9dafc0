"""Items of one artifact as they are now: trained ones, what was changed about them, and added ones.

A change is worked out aside (`stage`) and then shown in one short step (`commit`). One thread does both; any other may
read meanwhile, and sees each item either as it was or as it is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.attribute_values import LONGEST_TEXT, Attribute, FieldKind, UnfilterableError, read_attribute
from models.attributes import Attributes
from service.frames import Condition

from .filters import Matcher, compile_filter
from .overlay import Overlay
from .records import ItemRecord

_ITEM_ID = "item_id"


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


class LiveItems:
    """Items of one artifact with the overlay over them."""

    def __init__(self, artifact: Artifact, spare_items: int) -> None:
        self.artifact = artifact
        self.trained = artifact.manifest.item_count
        self.capacity = self.trained + spare_items
        self.available: NDArray[np.bool_] = np.arange(self.capacity) < self.trained
        self._attributes = artifact.attributes
        self._overlay = Overlay(self.trained, self._attributes.fields)
        self._states: dict[int, ItemState] = {}
        self._added_ids: list[str] = []
        self._added_codes: list[tuple[int, ...]] = []
        self._added_index: dict[str, int] = {}

    @property
    def count(self) -> int:
        """Trained and added items; indices are below it and never used again."""
        return self._overlay.count

    @property
    def fields(self) -> dict[str, FieldKind]:
        """What can be filtered by."""
        return self._overlay.fields

    @property
    def overlay(self) -> Overlay:
        """Attributes that differ from the artifact's, now."""
        return self._overlay

    @property
    def attributes(self) -> Attributes:
        """Of the trained items, as the artifact has them."""
        return self._attributes

    def indices(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Item index of every id, -1: unknown; int32 [len(ids)].

        Unavailable items are known, and so are trained ones that were removed: histories may hold them.
        """
        found = self.artifact.item_ids.indices(ids)
        if self._added_index:
            for place in np.flatnonzero(found < 0).tolist():
                found[place] = self._added(ids[place])
        return found

    def item_id(self, index: int) -> str:
        return self.artifact.item_ids[index] if index < self.trained else self._added_ids[index - self.trained]

    def is_removed(self, index: int) -> bool:
        state = self._states.get(index)
        return state is not None and state.removed

    def code(self, index: int) -> tuple[int, ...]:
        """Tokens of the item's code."""
        if index >= self.trained:
            return self._added_codes[index - self.trained]
        return tuple(self.artifact.codes.tokens[index].tolist())

    def metadata_json(self, index: int) -> bytes:
        """The item's metadata with what was changed about it, one JSON object."""
        state = self._states.get(index)
        if state is not None and state.metadata is not None:
            return state.metadata
        return self.artifact.metadata_json(index)

    def attributes_json(self, index: int) -> bytes:
        """What filters see of the item: its attributes, lists flattened, one JSON object."""
        fields, metadata = self.fields, json.loads(self.metadata_json(index))
        seen: dict[str, Any] = {}
        for name, (kind, values) in self._read(metadata).items():
            if fields.get(name) == kind:
                seen[name] = list(values) if len(values) > 1 else values[0] if kind == "keyword" else metadata[name]
        return _json(seen)

    @property
    def changed_items(self) -> list[int]:
        """Indices of items whose metadata is not the artifact's."""
        return [index for index, state in list(self._states.items()) if state.metadata is not None]

    def matcher(self, conditions: Sequence[Condition], include_items: Sequence[str] | None = None) -> Matcher:
        """Raises BadFilter, which lists the attributes there are."""
        return compile_filter(self, conditions, include_items)

    def stage(self, records: Sequence[ItemRecord], codes: Mapping[str, Sequence[int]]) -> Staged:
        """Works a change out; nothing of it is visible before `commit`, and nothing else may be staged until then.

        Each record replaces what was known of its item. `codes` names tokens of added items. Records of items that the
        model does not have and that are not added are of no consequence.
        """
        plan = _Plan(self, self._overlay)
        for record in {record.item_id: record for record in records}.values():
            plan.take(record, codes.get(record.item_id))
        return plan.staged()

    def commit(self, staged: Staged) -> None:
        """Shows a change. Raises ValueError where another was committed since it was staged."""
        if staged.before is not self._overlay:
            raise ValueError("another change was committed after this one was staged")
        fresh = [item for item in staged.added if item.fresh]
        self._added_ids += [item.item_id for item in fresh]
        self._added_codes += [item.code for item in fresh]
        self._states.update(staged.states)
        self._overlay = staged.overlay
        self._added_index.update((item.item_id, item.index) for item in fresh)
        self.available[staged.changed] = staged.available

    def _added(self, item_id: str) -> int:
        """An added item that was removed is unknown, as it is to a process that started since."""
        index = self._added_index.get(item_id, -1)
        return -1 if self.is_removed(index) else index

    def _read(self, metadata: Mapping[str, Any]) -> dict[str, Attribute]:
        """Everything in an item's metadata that a filter could compare."""
        read: dict[str, Attribute] = {}
        for name, value in metadata.items():
            if name == _ITEM_ID or name in self._attributes.refused or len(name) > LONGEST_TEXT:
                continue
            try:
                attribute = read_attribute(value)
            except UnfilterableError:
                continue
            if attribute and self._attributes.fields.get(name, attribute.kind) == attribute.kind:
                read[name] = attribute
        return read


class _Plan:
    """A change while it is worked out."""

    def __init__(self, items: LiveItems, overlay: Overlay) -> None:
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
        metadata = self._metadata(record, index)
        self._states[index] = ItemState(
            record.available and not record.removed,
            record.removed,
            None if metadata is None else _json(metadata),
            _identity(record),
        )
        if metadata is not None:
            self._rows[index] = self._items._read(metadata)

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
        index = items._added_index.get(item_id)
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
        state = self._items._states[index]
        if record.item is not None and not record.removed and _identity(record) != state.embeddings:
            self._added.append(AddedItem(index, record.item_id, record, self._items.code(index), fresh=False))

    def _metadata(self, record: ItemRecord, index: int) -> dict[str, Any] | None:
        """The whole metadata of the item, None: as trained."""
        trained = index < self._items.trained
        if trained and (record.removed or not (record.attributes or record.item)):
            return None
        base = json.loads(self._items.artifact.metadata_json(index)) if trained else {_ITEM_ID: record.item_id}
        if record.removed:
            return base  # of an added item, of which nothing else is left
        return _patched(base | (record.item or {}), record.attributes)


def _patched(metadata: dict[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """None takes an attribute away; nothing changes an item's id."""
    patch = {name: value for name, value in attributes.items() if name != _ITEM_ID}
    return {name: value for name, value in (metadata | patch).items() if name not in patch or value is not None}


def _identity(record: ItemRecord) -> int:
    return hash(tuple(sorted(record.embeddings.items())))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
