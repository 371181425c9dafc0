"""From the metadata of a catalog to columns: which fields are attributes, and their values, read in one pass."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .attribute_values import LONGEST_TEXT, FieldKind, Scalar, UnfilterableError, read_attribute

MOST_FIELDS: Final = 100  # of one catalog, those that most items have
_VARIED_ITEMS: Final = 1000  # in larger catalogs a keyword that tells most items apart is a name
_ITEM_ID: Final = "item_id"


@dataclass
class Column:
    """Values of one field while the catalog is read; `values` are codes where it is a keyword."""

    kind: FieldKind
    present: int = 0
    items: "array[int]" = field(default_factory=lambda: array("i"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    codes: dict[str, int] = field(default_factory=dict)

    def add(self, item: int, values: tuple[Scalar, ...]) -> None:
        self.present += 1
        for value in values:
            self.items.append(item)
            code = self.codes.setdefault(value, len(self.codes)) if isinstance(value, str) else value
            self.values.append(code)


def gather(metadata: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Column], dict[str, str]]:
    """Columns by name, sorted; and the fields that cannot be one, each with the reason: the end of "it …"."""
    columns: dict[str, Column] = {}
    refused: dict[str, str] = {}
    most_values = len(metadata) // 2 if len(metadata) > _VARIED_ITEMS else math.inf
    for item, row in enumerate(metadata):
        for name, value in row.items():
            if name in refused or name == _ITEM_ID:
                continue
            try:
                _take(columns, item, name, value, most_values)
            except UnfilterableError as error:
                columns.pop(name, None)  # at once: it may be a dictionary of millions
                refused[name] = str(error)
    by_presence = sorted(columns, key=lambda name: (-columns[name].present, name))
    refused |= dict.fromkeys(by_presence[MOST_FIELDS:], f"is not among the {MOST_FIELDS} that most items have")
    return {name: columns[name] for name in sorted(by_presence[:MOST_FIELDS])}, refused


def _take(columns: dict[str, Column], item: int, name: str, value: Any, most_values: float) -> None:
    """Raises UnfilterableError where the field cannot be filtered by any more."""
    attribute = read_attribute(value)
    if attribute is None:
        return
    if len(name) > LONGEST_TEXT:
        raise UnfilterableError(f"has a name of {len(name)} characters, more than {LONGEST_TEXT}")
    if name not in columns:
        columns[name] = Column(attribute.kind)
    column = columns[name]
    if column.kind != attribute.kind:
        raise UnfilterableError(f"is a {column.kind} for some items and a {attribute.kind} for others")
    column.add(item, attribute.values)
    if len(column.codes) > most_values:
        raise UnfilterableError("has another text for more than every second item, as a name has")


def of_kind(columns: Mapping[str, Column], kind: FieldKind) -> dict[str, Column]:
    return {name: column for name, column in columns.items() if column.kind == kind}


def postings(columns: Sequence[Column]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int32]]:
    """Keys, bounds and items of all keyword columns, one after the other."""
    keys: list[str] = []
    counts, items = [np.zeros(1, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    for row, column in enumerate(columns):
        texts = sorted(column.codes)
        rank = np.empty(len(texts), dtype=np.int32)
        rank[[column.codes[text] for text in texts]] = np.arange(len(texts), dtype=np.int32)
        ranks = rank[np.frombuffer(column.values, dtype=np.float64).astype(np.int32)]
        keys += [f"{row}\0{text}" for text in texts]
        counts.append(np.bincount(ranks, minlength=len(texts)))
        items.append(np.frombuffer(column.items, dtype=np.int32)[np.argsort(ranks, kind="stable")])
    return keys, np.cumsum(np.concatenate(counts)), np.concatenate(items)


def dense(columns: Mapping[str, Column], item_count: int, dtype: type, missing: float) -> NDArray[Any]:
    table: NDArray[Any] = np.full((len(columns), item_count), missing, dtype=dtype)
    for row, column in enumerate(columns.values()):
        table[row, np.frombuffer(column.items, dtype=np.int32)] = np.frombuffer(column.values, dtype=np.float64)
    return table
