"""Attributes of a catalog in columns: what filters compare, in a few mapped arrays for any number of items.

An attribute is a top-level field of the items' metadata whose values are all of one kind: strings or lists of strings
(keyword), numbers, or booleans. Other fields are refused: they are shown and cannot be filtered by.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .attribute_columns import dense, gather, of_kind, postings
from .attribute_values import FieldKind, Scalar
from .errors import ArtifactCorruptError
from .item_ids import ItemIds

if TYPE_CHECKING:
    from .artifact import Artifact, ArtifactWriter

SCHEMA: Final = "attributes.json"


class Field(NamedTuple):
    """One attribute of the catalog.

    row     of `numbers` or `booleans`, or the number that begins its keys in `keys`
    items   how many items have it
    """

    name: str
    kind: FieldKind
    row: int
    items: int


@dataclass(frozen=True)
class Attributes:
    """The attributes of N items.

    schema          by name
    refused         fields that cannot be filtered by, each with the reason: the end of a sentence that begins with "it"
    keys            every (keyword field, value) as "ROW\\0VALUE", each field's values sorted
    posting_bounds  int64 [values + 1], items of value v are posting_item[posting_bounds[v]:posting_bounds[v + 1]]
    posting_item    int32, ascending for each value
    numbers         float64 [number fields, N], NaN: missing
    number_order    int32 [number fields, N], items by ascending number, the missing ones last
    booleans        int8 [boolean fields, N], -1: missing
    """

    item_count: int
    schema: tuple[Field, ...]
    refused: Mapping[str, str]
    keys: ItemIds
    posting_bounds: NDArray[np.int64]
    posting_item: NDArray[np.int32]
    numbers: NDArray[np.float64]
    number_order: NDArray[np.int32]
    booleans: NDArray[np.int8]

    @classmethod
    def build(cls, metadata: Sequence[Mapping[str, Any]]) -> "Attributes":
        """Infers the fields of a catalog; time and memory grow with the number of values."""
        columns, refused = gather(metadata)
        keyword, number, boolean = (of_kind(columns, kind) for kind in get_args(FieldKind))
        keys, bounds, items = postings(list(keyword.values()))
        numbers = dense(number, len(metadata), np.float64, np.nan)
        schema = [
            Field(name, column.kind, row, column.present)
            for group in (keyword, number, boolean)
            for row, (name, column) in enumerate(group.items())
        ]
        return cls(
            item_count=len(metadata),
            schema=tuple(sorted(schema)),
            refused=refused,
            keys=ItemIds.build(keys),
            posting_bounds=bounds,
            posting_item=items,
            numbers=numbers,
            number_order=np.argsort(numbers, axis=1).astype(np.int32),
            booleans=dense(boolean, len(metadata), np.int8, -1),
        )

    @classmethod
    def open(cls, artifact: "Artifact") -> "Attributes":
        """Maps the arrays; raises ArtifactCorruptError where the schema is not what `write` wrote."""
        path = artifact.folder / SCHEMA
        try:
            raw = json.loads(path.read_bytes())
            schema = tuple(Field(**row) for row in raw["fields"])
            refused = raw["refused"]
            if isinstance(refused, list):  # of an export that did not keep the reasons
                refused = dict.fromkeys(refused, "was refused when the model was exported")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArtifactCorruptError(f"{path} cannot be read: {error!r}") from None
        names = ("text", "bounds", "hash", "index")
        keys = ItemIds(*(artifact.array(f"attribute_key_{name}") for name in names))
        arrays = {name: artifact.array(f"attribute_{name}") for name in _ARRAYS}
        return cls(artifact.manifest.item_count, schema, refused, keys, **arrays)

    def check(self) -> None:
        """Raises ArtifactCorruptError unless the arrays hold the fields of the schema for every item."""
        rows = {kind: sum(entry.kind == kind for entry in self.schema) for kind in get_args(FieldKind)}
        numbers, booleans = (rows["number"], self.item_count), (rows["boolean"], self.item_count)
        whole = (
            self.numbers.shape == self.number_order.shape == numbers
            and self.booleans.shape == booleans
            and self.posting_bounds.size == len(self.keys) + 1
            and self.posting_bounds[-1] == self.posting_item.size
        )
        if not whole:
            raise ArtifactCorruptError(f"the attributes are not those of {self.item_count} items")

    def write(self, writer: "ArtifactWriter") -> None:
        """Adds the schema and the arrays to an artifact."""
        fields = [entry._asdict() for entry in self.schema]
        text = json.dumps({"fields": fields, "refused": dict(sorted(self.refused.items()))}, ensure_ascii=False)
        (writer.folder / SCHEMA).write_text(text, encoding="utf-8")
        keys: dict[str, NDArray[Any]] = {
            "text": self.keys.text,
            "bounds": self.keys.bounds,
            "hash": self.keys.sorted_hash,
            "index": self.keys.hash_item,
        }
        for name, values in keys.items():
            writer.array(f"attribute_key_{name}", values)
        for name in _ARRAYS:
            writer.array(f"attribute_{name}", getattr(self, name))

    @cached_property
    def by_name(self) -> dict[str, Field]:
        return {entry.name: entry for entry in self.schema}

    @cached_property
    def fields(self) -> dict[str, FieldKind]:
        return {entry.name: entry.kind for entry in self.schema}

    def mark(self, name: str, values: Sequence[Scalar], mask: NDArray[np.bool_]) -> None:
        """Sets `mask` (bool [N]) where an item has one of `values`, which must be of the field's kind."""
        entry = self.by_name[name]
        if entry.kind == "keyword":
            for posting in self._found(entry, values):
                mask[posting] = True
        elif entry.kind == "number":
            for equal in self._equal(entry, values):
                mask[equal] = True
        else:
            for value in values:
                mask |= self.booleans[entry.row] == int(value)

    def holds(self, name: str, values: Sequence[Scalar], items: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each of `items` has one of `values`; bool [len(items)]."""
        entry = self.by_name[name]
        if entry.kind != "keyword":
            column = self.numbers[entry.row] if entry.kind == "number" else self.booleans[entry.row]
            return np.isin(column[items], np.array(values, dtype=column.dtype))
        held = np.zeros(len(items), dtype=bool)
        for posting in self._found(entry, values):
            rows = np.minimum(np.searchsorted(posting, items), len(posting) - 1)
            held |= posting[rows] == items
        return held

    def unheld(self, name: str, values: Sequence[Scalar]) -> list[Scalar]:
        """Those of `values`, which must be of the field's kind, that no item has."""
        entry = self.by_name[name]
        if entry.kind == "keyword":
            held = (self._rows(entry, values) >= 0).tolist()
        elif entry.kind == "number":
            held = [equal.size > 0 for equal in self._equal(entry, values)]
        else:
            held = [bool((self.booleans[entry.row] == int(value)).any()) for value in values]
        return [value for value, has in zip(values, held, strict=True) if not has]

    def within(
        self, name: str, gte: float | None, lte: float | None, items: NDArray[np.int32] | slice
    ) -> NDArray[np.bool_]:
        """Whether the number of each of `items` is there and between the bounds, both inclusive."""
        column = self.numbers[self.by_name[name].row][items]
        inside: NDArray[np.bool_] = ~np.isnan(column) if gte is None else column >= gte
        return inside if lte is None else inside & (column <= lte)

    def _found(self, entry: Field, values: Sequence[Scalar]) -> Iterator[NDArray[np.int32]]:
        """The items of every value that some item has; none of the arrays is empty."""
        rows = self._rows(entry, values)
        for row in rows[rows >= 0].tolist():
            yield self.posting_item[self.posting_bounds[row] : self.posting_bounds[row + 1]]

    def _rows(self, entry: Field, values: Sequence[Scalar]) -> NDArray[np.int32]:
        """Of each value in `keys`, -1: no item has it."""
        return self.keys.indices([f"{entry.row}\0{value}" for value in values])

    def _equal(self, entry: Field, values: Sequence[Scalar]) -> Iterator[NDArray[np.int32]]:
        column, order = self.numbers[entry.row], self.number_order[entry.row][: entry.items]
        wanted = np.array(values, dtype=np.float64)
        first = _binary_search(column, order, wanted, np.less)
        end = _binary_search(column, order, wanted, np.less_equal)
        for low, high in zip(first.tolist(), end.tolist(), strict=True):
            yield order[low:high]


_ARRAYS: Final = ("posting_bounds", "posting_item", "numbers", "number_order", "booleans")


def _binary_search(
    column: NDArray[np.float64], order: NDArray[np.int32], wanted: NDArray[np.float64], before: np.ufunc
) -> NDArray[np.int64]:
    """First row of `order` whose number is not `before` each wanted one; `order` is not copied, as numpy would."""
    low = np.zeros(len(wanted), dtype=np.int64)
    high = np.full(len(wanted), len(order), dtype=np.int64)
    while (searching := low < high).any():
        middle = np.minimum((low + high) // 2, len(order) - 1)
        goes_right = before(column[order[middle]], wanted)
        low = np.where(searching & goes_right, middle + 1, low)
        high = np.where(searching & ~goes_right, middle, high)
    return low
