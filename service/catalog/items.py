"""Items of one artifact as they are now: trained ones, what was changed about them, and added ones.

A change is worked out aside (`stage`) and then shown in one short step (`commit`). One thread does both; any other may
read meanwhile, and sees each item either as it was or as it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.attribute_values import LONGEST_TEXT, Attribute, FieldKind, UnfilterableError, read_attribute
from models.attributes import Attributes
from service.frames import Condition

from .filters import Matcher, read_conditions
from .overlay import Overlay
from .recent_ids import RecentIds
from .records import ItemRecord
from .staging import ITEM_ID, ItemState, Plan, encode_json
from .staging import AddedItem as AddedItem
from .staging import Staged as Staged


class LiveItems:
    """Items of one artifact with the overlay over them."""

    def __init__(self, artifact: Artifact, spare_items: int) -> None:
        self.artifact = artifact
        self.trained = artifact.manifest.item_count
        self._trained_ids = RecentIds(artifact.item_ids)
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

        Unavailable items are known, and so are trained ones that were removed: histories may hold them. An added item
        that was removed is unknown, as it is to a process that started since.
        """
        return self.without_removed(self.places(ids))

    def without_removed(self, found: NDArray[np.int32]) -> NDArray[np.int32]:
        """From `places` to `indices`."""
        if not self._added_index:
            return found
        known = found.copy()
        for place in np.flatnonzero(found >= self.trained).tolist():
            if self.is_removed(int(found[place])):
                known[place] = -1
        return known

    def places(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """As `indices`, but with added items that were removed: their indices stay theirs."""
        found = self._trained_ids.indices(ids)
        if self._added_index:
            for place in np.flatnonzero(found < 0).tolist():
                found[place] = self._added_index.get(ids[place], -1)
        return found

    def item_id(self, index: int) -> str:
        return self._trained_ids[index] if index < self.trained else self._added_ids[index - self.trained]

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
        for name, (kind, values) in self.read_attributes(metadata).items():
            if fields.get(name) == kind:
                seen[name] = list(values) if isinstance(metadata[name], list) else metadata[name]
        return encode_json(seen)

    def changed_items(self) -> list[int]:
        """Items whose metadata is not the artifact's."""
        return [index for index, state in list(self._states.items()) if state.metadata is not None]

    def removed_items(self) -> list[int]:
        """Items that are gone, until they are added again."""
        return [index for index, state in list(self._states.items()) if state.removed]

    def added_items(self) -> list[int]:
        """Items the model was not trained on, without removed ones."""
        return [index for index in range(self.trained, self.count) if not self.is_removed(index)]

    def added_index(self, item_id: str) -> int | None:
        """Index of an added item, also of one that was removed; None: it was never added."""
        return self._added_index.get(item_id)

    def has_place(self, item_id: str) -> bool:
        """Whether the id has an index, so that adding it takes no room."""
        return item_id in self._added_index or bool(self.artifact.item_ids.indices([item_id])[0] >= 0)

    def state(self, index: int) -> ItemState | None:
        """What differs from the artifact; None: nothing."""
        return self._states.get(index)

    def matcher(self, conditions: Sequence[Condition], include_items: Sequence[str] | None = None) -> Matcher:
        """Raises BadFilter, which lists the attributes there are."""
        return Matcher(self, read_conditions(self, conditions), include_items)

    def stage(self, records: Sequence[ItemRecord], codes: Mapping[str, Sequence[int]]) -> Staged:
        """Works a change out; nothing of it is visible before `commit`, and nothing else may be staged until then.

        Each record replaces what was known of its item. `codes` names tokens of added items. Records of items that the
        model does not have and that are not added are of no consequence.
        """
        plan = Plan(self, self._overlay)
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

    def read_attributes(self, metadata: Mapping[str, Any]) -> dict[str, Attribute]:
        """Everything in an item's metadata that a filter could compare."""
        read: dict[str, Attribute] = {}
        for name, value in metadata.items():
            if name == ITEM_ID or name in self._attributes.refused or len(name) > LONGEST_TEXT:
                continue
            try:
                attribute = read_attribute(value)
            except UnfilterableError:
                continue
            if attribute and self._attributes.fields.get(name, attribute.kind) == attribute.kind:
                read[name] = attribute
        return read
