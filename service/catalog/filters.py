"""Filters: conditions on attributes, checked once and then evaluated over all items or some, in columns.

An item that lacks an attribute satisfies no `any_of`, `gte` or `lte` on it, and every `none_of`. Of an attribute with
several values, `any_of` wants one of them among its own, and `none_of` none.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.attribute_values import FieldKind, Scalar
from models.attributes import Attributes
from service.errors import BadFilter, FieldError, pointer
from service.frames import Condition

from .overlay import Overlay

if TYPE_CHECKING:
    from .items import LiveItems

_NAMED_FIELDS: Final = 50
_NAMED_VALUES: Final = 3
_SHOWN_CHARACTERS: Final = 40
_KIND_NAMES: Final[Mapping[FieldKind, str]] = {
    "keyword": "a string",
    "number": "a finite number",
    "boolean": "true or false",
}


@dataclass(frozen=True)
class Comparison:
    """One test of an attribute: its value is among `values`, or, where there are none, between the bounds."""

    field: str
    kind: FieldKind
    values: tuple[Scalar, ...] | None = None
    gte: float | None = None
    lte: float | None = None
    negated: bool = False


class Matcher:
    """A filter that has been checked. It follows the catalog: every call sees the items as they are then."""

    def __init__(
        self, items: "LiveItems", comparisons: Sequence[Comparison], include_items: Sequence[str] | None
    ) -> None:
        self._items = items
        self._comparisons = tuple(comparisons)
        self._included: NDArray[np.int32] | None = None
        self._unknown: list[str] = []  # they may be added later
        untrained = ((one, _untrained(items.attributes, one)) for one in comparisons if not one.negated)
        self._strange = [(comparison, values) for comparison, values in untrained if values]  # a change may bring them
        if include_items is not None:
            wanted = list(dict.fromkeys(include_items))
            found = items.indices(wanted)
            self._included = found[found >= 0]
            self._unknown = [wanted[place] for place in np.flatnonzero(found < 0).tolist()]

    def __call__(self, items: NDArray[np.int32] | None = None) -> NDArray[np.bool_]:
        """Which of `items` (int32 [M], below the catalog's count; None: all of them) match; bool [M].

        Whether they are available does not matter here.
        """
        overlay = self._items.overlay
        matches = self._all_included(overlay) if items is None else self._some_included(items)
        for comparison in self._comparisons:
            hits = self._hits(comparison, overlay, items)
            matches &= ~hits if comparison.negated else hits
        return matches

    def warnings(self) -> list[str]:
        """A sentence for each attribute of which no item, available or not, has some of the values in `any_of`.

        Of values that trained items had and changes have taken away it says nothing: what is looked up at each change
        are the few values that the artifact lacks.
        """
        overlay = self._items.overlay
        left = ((one.field, overlay.unheld(one.field, one.kind, values)) for one, values in self._strange)
        return [_nobody_has(field, values) for field, values in left if values]

    def _all_included(self, overlay: Overlay) -> NDArray[np.bool_]:
        if self._included is None:
            return np.ones(overlay.count, dtype=bool)
        matches = np.zeros(overlay.count, dtype=bool)
        included = self._included_now(self._included)
        matches[included[included < overlay.count]] = True
        return matches

    def _some_included(self, items: NDArray[np.int32]) -> NDArray[np.bool_]:
        if self._included is None:
            return np.ones(len(items), dtype=bool)
        return np.isin(items, self._included_now(self._included))

    def _included_now(self, included: NDArray[np.int32]) -> NDArray[np.int32]:
        if not self._unknown:
            return included
        found = self._items.indices(self._unknown)
        return np.concatenate([included, found[found >= 0]])

    def _hits(self, comparison: Comparison, overlay: Overlay, items: NDArray[np.int32] | None) -> NDArray[np.bool_]:
        if items is None:
            return self._all_hits(comparison, overlay)
        hits = np.zeros(len(items), dtype=bool)
        changed = overlay.knows(items)
        trained = ~changed & (items < self._items.attributes.item_count)
        hits[trained] = _trained_hits(self._items.attributes, comparison, items[trained])
        hits[changed] = np.isin(items[changed], _changed_hits(overlay, comparison))
        return hits

    def _all_hits(self, comparison: Comparison, overlay: Overlay) -> NDArray[np.bool_]:
        hits = np.zeros(overlay.count, dtype=bool)
        _mark_trained(self._items.attributes, comparison, hits[: self._items.attributes.item_count])
        hits[overlay.items] = False
        hits[_changed_hits(overlay, comparison)] = True
        return hits


def read_conditions(items: "LiveItems", conditions: Sequence[Condition]) -> list[Comparison]:
    """Raises BadFilter with an error for every attribute that is not known and every value of the wrong kind."""
    fields, refused = items.overlay.fields, items.attributes.refused
    errors: list[FieldError] = []
    comparisons = [comparison for condition in conditions for comparison in _read(condition, fields, refused, errors)]
    if errors:
        first = errors[0]["detail"]
        raise BadFilter(f"{first[0].upper()}{first[1:]}; {_known(fields)}", errors)
    return comparisons


def filter_key(
    conditions: Sequence[Condition], include_items: Sequence[str] | None, known: Mapping[str, FieldKind]
) -> bytes:
    """Equal for filters that mean the same, whatever the order of conditions, values and ids.

    `known` are the attributes there are now: what was right when they were others may be wrong today.
    """
    fields: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        parts = fields.setdefault(condition.field, {"any_of": set(), "none_of": set(), "gte": set(), "lte": set()})
        if condition.any_of:
            parts["any_of"].add(tuple(sorted(set(map(_tagged, condition.any_of)))))
        parts["none_of"].update(map(_tagged, condition.none_of or ()))
        for bound in ("gte", "lte"):
            if (limit := getattr(condition, bound)) is not None:
                parts[bound].add(float(limit) + 0.0)
    said = [
        (name, known.get(name), sorted(parts["any_of"]), sorted(parts["none_of"]), max(parts["gte"], default=None),
         min(parts["lte"], default=None))
        for name, parts in sorted(fields.items())
        if any(parts.values())
    ]  # fmt: skip
    return msgspec.msgpack.encode((said, None if include_items is None else sorted(set(include_items))))


def _tagged(value: Scalar) -> tuple[str, Scalar]:
    """Values of different kinds can be sorted together, and true is not 1."""
    if isinstance(value, str):
        return "s", value
    return ("b", value) if isinstance(value, bool) else ("n", float(value) + 0.0)


def _read(
    condition: Condition, fields: Mapping[str, FieldKind], refused: Mapping[str, str], errors: list[FieldError]
) -> Iterator[Comparison]:
    """The comparisons of a condition; what is wrong with it is added to `errors`."""
    name = condition.field
    kind = fields.get(name)
    if kind is None:
        detail = f"no attribute is called {name!r}"
        if name in refused:
            detail = f"{name!r} cannot be filtered by: it {refused[name]}"
        errors.append(FieldError(pointer=pointer("filter", name), detail=detail))
        return
    errors += _wrong(condition, kind)
    if condition.any_of:
        yield Comparison(name, kind, tuple(condition.any_of))
    if condition.none_of:
        yield Comparison(name, kind, tuple(condition.none_of), negated=True)
    if condition.gte is not None or condition.lte is not None:
        yield Comparison(name, kind, gte=condition.gte, lte=condition.lte)


def _wrong(condition: Condition, kind: FieldKind) -> Iterator[FieldError]:
    name = condition.field
    for part, values in (("any_of", condition.any_of), ("none_of", condition.none_of)):
        for place, value in enumerate(values or ()):
            if not _is_of_kind(value, kind):
                detail = f"{name!r} is a {kind}, so a value must be {_KIND_NAMES[kind]}"
                yield FieldError(pointer=pointer("filter", name, part, place), detail=detail)
    for part, limit in (("gte", condition.gte), ("lte", condition.lte)):
        if limit is not None and kind != "number":
            yield FieldError(pointer=pointer("filter", name, part), detail=f"{name!r} is a {kind}, not a number")
        elif limit is not None and not _is_of_kind(limit, "number"):
            yield FieldError(pointer=pointer("filter", name, part), detail="the bound must be a finite number")


def _is_of_kind(value: object, kind: FieldKind) -> bool:
    if kind == "keyword":
        return isinstance(value, str)
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    return isinstance(value, int | float) and math.isfinite(value)


def _known(fields: Mapping[str, FieldKind]) -> str:
    if not fields:
        return "no item of this model has an attribute to filter by"
    named = [f"{name} ({kind})" for name, kind in sorted(fields.items())]
    more = f" and {len(named) - _NAMED_FIELDS} more" if len(named) > _NAMED_FIELDS else ""
    return f"the attributes are {', '.join(named[:_NAMED_FIELDS])}{more}"


def _mark_trained(attributes: Attributes, comparison: Comparison, hits: NDArray[np.bool_]) -> None:
    """Of all trained items, as the artifact has them."""
    if attributes.fields.get(comparison.field) != comparison.kind:
        return
    if comparison.values is None:
        hits[:] = attributes.within(comparison.field, comparison.gte, comparison.lte, slice(None))
    else:
        attributes.mark(comparison.field, comparison.values, hits)


def _untrained(attributes: Attributes, comparison: Comparison) -> list[Scalar]:
    """Values, each once, that no trained item has, as the artifact has them."""
    values = list(dict.fromkeys(comparison.values or ()))
    if attributes.fields.get(comparison.field) != comparison.kind:
        return values
    return attributes.unheld(comparison.field, values)


def _nobody_has(field: str, values: Sequence[Scalar]) -> str:
    named = [_shown(value) for value in values[:_NAMED_VALUES]]
    if more := len(values) - len(named):
        named.append(f"{more} more")
    *others, last = named
    return f"filter: no item has {', '.join(others)}{' or ' if others else ''}{last} in {field!r}"


def _shown(value: Scalar) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}…")
    return json.dumps(value)


def _trained_hits(attributes: Attributes, comparison: Comparison, items: NDArray[np.int32]) -> NDArray[np.bool_]:
    if attributes.fields.get(comparison.field) != comparison.kind:
        return np.zeros(len(items), dtype=bool)
    if comparison.values is None:
        return attributes.within(comparison.field, comparison.gte, comparison.lte, items)
    return attributes.holds(comparison.field, comparison.values, items)


def _changed_hits(overlay: Overlay, comparison: Comparison) -> NDArray[np.int32]:
    """Items of the overlay that the comparison is true for."""
    column = overlay.columns.get((comparison.field, comparison.kind))
    if column is None:
        return np.empty(0, dtype=np.int32)
    if comparison.values is None:
        return column.within(comparison.gte, comparison.lte)
    return column.holding(overlay.encoded(comparison.kind, comparison.values))
