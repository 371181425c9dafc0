"""Attributes of the items that differ from the trained catalog: immutable columns, replaced as a whole by a change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.attribute_values import Attribute, FieldKind, Scalar

Attributed = Mapping[str, Attribute]  # attribute → what one item has for it
Key = tuple[str, FieldKind]

_SPARE_CODES: Final = 1000  # forgotten texts below which the dictionary is not built anew


@dataclass(frozen=True)
class Column:
    """Values of one kind of one attribute, in pairs.

    item   int32 [P], any order; once for each of an item's values
    value  [P], int32 codes of texts, float64 numbers or int8 booleans
    """

    item: NDArray[np.int32]
    value: NDArray[Any]

    @cached_property
    def held(self) -> int:
        """How many items have a value."""
        return int(np.unique(self.item).size)

    def holding(self, wanted: NDArray[Any]) -> NDArray[np.int32]:
        """Items with one of the wanted values."""
        return self.item[np.isin(self.value, wanted)]

    def within(self, gte: float | None, lte: float | None) -> NDArray[np.int32]:
        """Items whose number is between the bounds, both inclusive."""
        inside = np.ones(len(self.item), dtype=bool)
        if gte is not None:
            inside &= self.value >= gte
        if lte is not None:
            inside &= self.value <= lte
        return self.item[inside]


@dataclass(frozen=True)
class Overlay:
    """Attributes of some items, over those of the artifact.

    count    items there are, so item indices end before it
    items    int32, ascending: these have the attributes in `columns` and no others, whatever the artifact says
    columns  (attribute, kind) → values. An attribute may be here with several kinds; `fields` says which counts
    codes    text → code in this overlay, with texts that nothing has any more
    fields   attribute → kind, of all items
    """

    count: int
    base_fields: Mapping[str, FieldKind]
    items: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    columns: Mapping[Key, Column] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)

    @cached_property
    def fields(self) -> dict[str, FieldKind]:
        """The artifact's, and for attributes it does not have the kind of most values.

        It follows from what is held alone and not from the order in which it came, so replicas agree.
        """
        rivals: dict[str, list[FieldKind]] = {}
        for name, kind in self.columns:
            if name not in self.base_fields:
                rivals.setdefault(name, []).append(kind)
        live = {name: self._strongest(name, kinds) for name, kinds in rivals.items()}
        return {**self.base_fields, **live}

    def _strongest(self, name: str, kinds: Sequence[FieldKind]) -> FieldKind:
        if len(kinds) == 1:
            return kinds[0]
        return max(sorted(kinds), key=lambda kind: self.columns[name, kind].held)

    def changed(self, count: int, forget: Sequence[int], rows: Mapping[int, Attributed]) -> "Overlay":
        """This overlay with `count` items, without the items `forget`, and with the attributes of `rows` replaced."""
        dropped = np.array(forget, dtype=np.int32)
        gone = np.concatenate([dropped[self.knows(dropped)], np.array(list(rows), dtype=np.int32)])
        if not len(gone):
            return replace(self, count=count)
        kept = self.items[np.isin(self.items, gone, invert=True)]
        items = np.sort(np.concatenate([kept, np.array(list(rows), dtype=np.int32)]))
        codes = dict(self.codes)
        added = _pairs(rows, codes)
        columns = {key: column for key, old in self.columns.items() if len((column := _without(old, gone)).item)}
        for key, pairs in added.items():
            columns[key] = _joined(columns.get(key), pairs)
        return Overlay(count, self.base_fields, items, *_tidied(columns, codes))

    def encoded(self, kind: FieldKind, values: Sequence[Scalar]) -> NDArray[Any]:
        """Values as columns of a kind hold them; texts that no item of the overlay ever had are left out."""
        if kind == "keyword":
            return np.array([self.codes[v] for v in values if isinstance(v, str) and v in self.codes], dtype=np.int32)
        return np.array(values, dtype=np.float64 if kind == "number" else np.int8)

    def unheld(self, name: str, kind: FieldKind, values: Sequence[Scalar]) -> list[Scalar]:
        """Those of `values` that no item of the overlay has."""
        column, wanted = self.columns.get((name, kind)), self.encoded(kind, values)
        if column is None or not len(wanted):  # a search for nothing is slower than one for something
            return list(values)
        held = set(np.unique(column.value[np.isin(column.value, wanted)]).tolist())
        return [v for v in values if (self.codes.get(v) if isinstance(v, str) else v) not in held]

    def knows(self, items: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each item's attributes come from here; bool [len(items)]."""
        if not len(self.items):
            return np.zeros(len(items), dtype=bool)
        rows = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        return np.asarray(self.items[rows] == items)


def _without(column: Column, items: NDArray[np.int32]) -> Column:
    keep = np.isin(column.item, items, invert=True)
    return column if keep.all() else Column(column.item[keep], column.value[keep])


def _pairs(rows: Mapping[int, Attributed], codes: dict[str, int]) -> dict[Key, Column]:
    """Columns of new values; new texts get a code in `codes`."""
    items: dict[Key, list[int]] = {}
    values: dict[Key, list[float]] = {}
    for item, attributes in rows.items():
        for name, (kind, scalars) in attributes.items():
            items.setdefault((name, kind), []).extend([item] * len(scalars))
            coded = (codes.setdefault(s, len(codes)) if isinstance(s, str) else s for s in scalars)
            values.setdefault((name, kind), []).extend(coded)
    return {key: Column(np.array(items[key], dtype=np.int32), np.array(values[key], _DTYPES[key[1]])) for key in items}


def _joined(old: Column | None, new: Column) -> Column:
    if old is None:
        return new
    return Column(np.concatenate([old.item, new.item]), np.concatenate([old.value, new.value]))


def _tidied(columns: dict[Key, Column], codes: dict[str, int]) -> tuple[dict[Key, Column], dict[str, int]]:
    """Drops the texts that nothing has any more, once they outnumber the others."""
    texts = [key for key in columns if key[1] == "keyword"]
    if len(codes) <= _SPARE_CODES + 2 * sum(len(columns[key].item) for key in texts):
        return columns, codes
    used = np.unique(np.concatenate([np.empty(0, dtype=np.int32), *(columns[key].value for key in texts)]))
    by_code = list(codes)
    for key in texts:
        columns[key] = Column(columns[key].item, np.searchsorted(used, columns[key].value).astype(np.int32))
    return columns, {by_code[code]: rank for rank, code in enumerate(used.tolist())}


_DTYPES: Final[Mapping[FieldKind, type]] = {"keyword": np.int32, "number": np.float64, "boolean": np.int8}
