"""Filters against a plain reading of what they mean, over random catalogs and changes."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import structs

from models.attribute_values import FieldKind, UnfilterableError, read_attribute
from service.catalog.filters import filter_key
from service.catalog.items import LiveItems
from service.catalog.records import ItemRecord
from service.errors import BadFilter
from service.frames import Condition
from tests.catalog_artifact import catalog_artifact

SPARE = 4
KNOWN: dict[str, FieldKind] = {"color": "keyword"}
TEXTS = st.sampled_from(["a", "b", "c", "ü"])
NUMBERS = st.sampled_from([-1, 0, 1, 2.5])
VALUES = TEXTS | NUMBERS | st.booleans() | st.lists(TEXTS, max_size=3) | st.none() | st.just({"no": "value"})
TIDY = {"k": TEXTS | st.lists(TEXTS, max_size=3), "n": NUMBERS, "b": st.booleans(), "any": VALUES}
NAMES = st.sampled_from([*TIDY, "live", "live2"])
BASE = st.lists(st.fixed_dictionaries({}, optional=TIDY), min_size=2, max_size=5)
PATCH = st.dictionaries(NAMES, VALUES, max_size=4)
IDS = st.sampled_from([*(f"item-{n}" for n in (0, 1, 2, 0, 1, 2, 7)), *(f"new-{n}" for n in range(SPARE + 1))])
RECORDS = st.lists(
    st.builds(
        ItemRecord,
        item_id=IDS,
        revision=st.just(1),
        available=st.booleans(),
        removed=st.booleans(),
        attributes=PATCH,
        item=st.none() | PATCH,
    ),
    min_size=1,
    max_size=6,
)
CODES = {f"new-{n}": (15, n) for n in range(SPARE + 1)} | {f"item-{n}": (14, n) for n in range(8)}


class Plain:
    """The same catalog, item by item."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.base = {f"item-{n}": row for n, row in enumerate(rows)}
        self.added: list[str] = []
        self.records: dict[str, ItemRecord] = {}
        self.base_kinds, self.refused = self._base_fields()

    def apply(self, records: list[ItemRecord]) -> None:
        for record in {record.item_id: record for record in records}.values():
            known = record.item_id in self.base or record.item_id in self.added
            if not known and (record.removed or record.item is None or len(self.added) == SPARE):
                continue
            if not known:
                self.added.append(record.item_id)
            self.records[record.item_id] = record

    @property
    def ids(self) -> list[str]:
        return [*self.base, *self.added]

    def metadata(self, item_id: str) -> dict[str, Any]:
        record = self.records.get(item_id)
        base = self.base.get(item_id, {})
        if record is None or self.gone(item_id):
            return base
        merged = base | (record.item or {})
        for name, value in record.attributes.items():
            if value is None:
                merged = {other: kept for other, kept in merged.items() if other != name}
            else:
                merged = merged | {name: value}
        return merged

    def gone(self, item_id: str) -> bool:
        """Removed, or an added item of which only changes are left."""
        record = self.records[item_id]
        return record.removed or (item_id not in self.base and record.item is None)

    def changed(self, item_id: str) -> bool:
        record = self.records.get(item_id)
        live = record is not None and not self.gone(item_id) and bool(record.attributes or record.item)
        return live or item_id in self.added

    def kinds(self) -> dict[str, str]:
        counts: dict[str, Counter[str]] = {}
        for item_id in filter(self.changed, self.ids):
            for name, value in self.metadata(item_id).items():
                if name not in self.refused and name not in self.base_kinds and (read := kind_of(value)):
                    counts.setdefault(name, Counter())[read] += 1
        strongest = {name: min(c, key=lambda kind: (-c[kind], kind)) for name, c in counts.items()}
        return self.base_kinds | strongest

    def values(self, item_id: str, name: str) -> list[Any]:
        if name not in self.metadata(item_id) or kind_of(value := self.metadata(item_id)[name]) != self.kinds()[name]:
            return []
        return value if isinstance(value, list) else [value]

    def satisfies(self, item_id: str, condition: Condition) -> bool:
        values = self.values(item_id, condition.field)
        if condition.any_of and not any(value in condition.any_of for value in values):
            return False
        if condition.none_of and any(value in condition.none_of for value in values):
            return False
        if condition.gte is not None and not any(value >= condition.gte for value in values):
            return False
        return condition.lte is None or any(value <= condition.lte for value in values)

    def unheld(self, condition: Condition) -> set[Any]:
        """Values asked for that no item has, nor had as the artifact has it."""
        name = condition.field
        trained = [row[name] for row in self.base.values() if name in row and name in self.base_kinds]
        held = [value for item_id in self.ids for value in self.values(item_id, name)]
        held += [one for value in trained for one in (value if isinstance(value, list) else [value])]
        return {value for value in condition.any_of or () if value not in held}

    def _base_fields(self) -> tuple[dict[str, str], set[str]]:
        seen: dict[str, set[str | None]] = {}
        for row in self.base.values():
            for name, value in row.items():
                if value is not None and value != []:
                    seen.setdefault(name, set()).add(kind_of(value))
        fit = {name: str(next(iter(kinds))) for name, kinds in seen.items() if len(kinds) == 1 and None not in kinds}
        return fit, set(seen) - set(fit)


def kind_of(value: Any) -> str | None:
    try:
        read = read_attribute(value)
    except UnfilterableError:
        return None
    return read.kind if read else None


def live_items(rows: list[dict[str, Any]], spare: int = SPARE) -> LiveItems:
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays readable
        items = LiveItems(catalog_artifact(Path(folder), rows), spare)
        _ = items.attributes, items.artifact.item_ids, items.artifact.metadata_json(0), items.artifact.codes
    return items


def conditions(fields: dict[str, str]) -> st.SearchStrategy[list[Condition]]:
    def of(name: str) -> st.SearchStrategy[Condition]:
        kind = fields[name]
        scalars: st.SearchStrategy[Any] = {"keyword": TEXTS, "number": NUMBERS, "boolean": st.booleans()}[kind]
        lists, bound = st.none() | st.lists(scalars, min_size=1, max_size=3), st.none() | NUMBERS
        bounds = {"gte": bound, "lte": bound} if kind == "number" else {}
        return st.builds(Condition, st.just(name), any_of=lists, none_of=lists, **bounds)

    return st.lists(st.sampled_from(sorted(fields)).flatmap(of), min_size=1, max_size=2) if fields else st.just([])


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(BASE, st.lists(RECORDS, min_size=1, max_size=3), st.none() | st.lists(IDS, max_size=4), st.data())
def test_a_filter_means_what_it_says(
    rows: list[dict[str, Any]], changes: list[list[ItemRecord]], included: list[str] | None, data: st.DataObject
) -> None:
    items, plain = live_items(rows), Plain(rows)
    early = items.matcher([], included)
    for records in changes:
        items.commit(items.stage(records, CODES))
        plain.apply(records)
    assert items.fields == plain.kinds()
    assert [items.item_id(index) for index in range(items.count)] == plain.ids
    wanted = data.draw(conditions(plain.kinds()))
    removed = {item_id for item_id in plain.added if plain.gone(item_id)}
    allowed = set(plain.ids) if included is None else set(included) - removed
    expected = [i in allowed and all(plain.satisfies(i, condition) for condition in wanted) for i in plain.ids]
    matcher = items.matcher(wanted, included)
    assert matcher(None).tolist() == expected
    assert len(matcher.warnings()) == sum(1 for condition in wanted if plain.unheld(condition))
    some = data.draw(st.lists(st.integers(0, items.count - 1), max_size=6))
    assert matcher(np.array(some, dtype=np.int32)).tolist() == [expected[item] for item in some]
    assert early(None).tolist() == [item_id in allowed for item_id in plain.ids]


@settings(max_examples=40, deadline=None)
@given(BASE, st.lists(RECORDS, min_size=1, max_size=3))
def test_one_message_or_several_or_only_the_last_state_come_to_the_same(
    rows: list[dict[str, Any]], changes: list[list[ItemRecord]]
) -> None:
    several, at_once, codes = live_items(rows, len(CODES)), live_items(rows, len(CODES)), CODES
    changes = [[structs.replace(record, item=record.item or {}) for record in records] for records in changes]
    for records in changes:
        several.commit(several.stage(records, codes))
    last = {record.item_id: record for records in changes for record in records}
    at_once.commit(at_once.stage(list(last.values()), codes))
    assert several.fields == at_once.fields
    alive = [i for i in range(several.count) if not several.is_removed(i)]
    twins = at_once.indices([several.item_id(index) for index in alive]).tolist()
    assert -1 not in twins
    for index, twin in zip(alive, twins, strict=True):
        assert several.attributes_json(index) == at_once.attributes_json(twin)
        assert several.metadata_json(index) == at_once.metadata_json(twin)
        assert several.available[index] == at_once.available[twin]


ITEMS = [{"color": "red", "price": 3, "new": True, "a/b~c": "x"}, {"color": ["red", "blue"], "price": 5}, {}]


@pytest.mark.parametrize(
    ("condition", "pointer"),
    [
        (Condition("size", any_of=["x"]), "/filter/size"),
        (Condition("color", any_of=["red", 3.0]), "/filter/color/any_of/1"),
        (Condition("color", gte=3.0), "/filter/color/gte"),
        (Condition("price", none_of=["3"]), "/filter/price/none_of/0"),
        (Condition("price", any_of=[True]), "/filter/price/any_of/0"),
        (Condition("price", any_of=[float("nan")]), "/filter/price/any_of/0"),
        (Condition("price", lte=float("inf")), "/filter/price/lte"),
        (Condition("new", any_of=[1.0]), "/filter/new/any_of/0"),
        (Condition("new", any_of=["true"]), "/filter/new/any_of/0"),
        (Condition("new", lte=1.0), "/filter/new/lte"),
        (Condition("a/b~c", any_of=[1.0]), "/filter/a~1b~0c/any_of/0"),
    ],
)
def test_a_wrong_filter_is_told_where_it_is_wrong(condition: Condition, pointer: str) -> None:
    items = live_items(ITEMS)
    with pytest.raises(
        BadFilter, match=r"a/b~c \(keyword\), color \(keyword\), new \(boolean\), price \(number\)"
    ) as bad:
        items.matcher([Condition("color", any_of=["red"]), condition])
    assert [error["pointer"] for error in bad.value.errors] == [pointer]


def test_all_errors_are_told_at_once_and_not_all_of_very_many_attributes() -> None:
    items = live_items([{f"f{n:02}": 1 for n in range(60)}])
    with pytest.raises(BadFilter, match=r"f49 .* and 10 more$") as bad:
        items.matcher([Condition("x"), Condition("f01", any_of=["a", "b"])])
    assert len(bad.value.errors) == 3


def test_why_an_attribute_cannot_be_filtered_by_is_told() -> None:
    items = live_items([{"size": {"width": 1}, "price": 1}, {"size": 3}])
    with pytest.raises(BadFilter, match=r"^'size' cannot be filtered by: it is an object; .*price") as bad:
        items.matcher([Condition("size", lte=1.0)])
    assert [error["pointer"] for error in bad.value.errors] == ["/filter/size"]


def test_a_catalog_without_attributes_says_so() -> None:
    with pytest.raises(BadFilter, match="no item of this model has an attribute"):
        live_items([{}]).matcher([Condition("x", any_of=["a"])])


def test_included_items_that_are_unknown_are_left_out() -> None:
    matcher = live_items(ITEMS).matcher([], ["item-2", "nothing", "item-2", "item-0"])
    assert matcher(None).tolist() == [True, False, True]
    assert not live_items(ITEMS).matcher([], [])(None).any()


@pytest.mark.parametrize(
    ("condition", "warnings"),
    [
        (Condition("color", any_of=["red", "Blue", "Blue"]), ["filter: no item has 'Blue' in 'color'"]),
        (Condition("color", any_of=["Red", "Blue"]), ["filter: no item has 'Red' or 'Blue' in 'color'"]),
        (Condition("color", any_of=[*"abcde", "red"]), ["filter: no item has 'a', 'b', 'c' or 2 more in 'color'"]),
        (Condition("color", any_of=["x" * 41]), [f"filter: no item has '{'x' * 40}…' in 'color'"]),
        (Condition("price", any_of=[3.0, 4.0]), ["filter: no item has 4.0 in 'price'"]),
        (Condition("new", any_of=[True, False]), ["filter: no item has false in 'new'"]),
        (Condition("color", any_of=["red", "blue"], none_of=["Red"]), []),
        (Condition("price", gte=9.0), []),
    ],
)
def test_values_that_no_item_has_are_a_warning(condition: Condition, warnings: list[str]) -> None:
    assert live_items(ITEMS).matcher([condition]).warnings() == warnings


@pytest.mark.parametrize(("name", "value"), [("color", "Red"), ("price", 4.0), ("new", False)])
def test_a_value_is_unknown_until_an_item_gets_it_and_again_when_it_is_gone(name: str, value: Any) -> None:
    items = live_items(ITEMS)
    matcher = items.matcher([Condition(name, any_of=[value])])
    for attributes, warned in (({}, 1), ({name: value}, 0), ({name: ITEMS[0][name]}, 1)):
        items.commit(items.stage([ItemRecord("item-1", 1, available=False, attributes=attributes)], {}))
        assert len(matcher.warnings()) == warned


SAME = [
    ([Condition("c", any_of=["a", "b"])], [Condition("c", any_of=["b", "a", "a"])]),
    ([Condition("c", any_of=["a"]), Condition("d", gte=1.0)], [Condition("d", gte=1.0), Condition("c", any_of=["a"])]),
    ([Condition("p", gte=1.0), Condition("p", gte=3.0, lte=5.0)], [Condition("p", gte=3.0, lte=5.0)]),
    ([Condition("c", none_of=["a"]), Condition("c", none_of=["b"])], [Condition("c", none_of=["b", "a"])]),
    ([Condition("c"), Condition("p", any_of=[1])], [Condition("p", any_of=[1.0]), Condition("c", any_of=[])]),
    ([Condition("p", lte=0.0)], [Condition("p", lte=-0.0)]),
]
OTHER = [
    ([Condition("c", any_of=["a"])], [Condition("c", none_of=["a"])]),
    ([Condition("c", any_of=["1"])], [Condition("c", any_of=[1.0])]),
    ([Condition("c", any_of=[True])], [Condition("c", any_of=[1.0])]),
    ([Condition("c", any_of=["a", "b"])], [Condition("c", any_of=["a"]), Condition("c", any_of=["b"])]),
    ([Condition("p", gte=1.0)], [Condition("p", lte=1.0)]),
    ([Condition("c", any_of=["a"])], [Condition("d", any_of=["a"])]),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_filters_that_mean_the_same_have_one_key(one: list[Condition], other: list[Condition]) -> None:
    assert filter_key(one, ["y", "x"], KNOWN) == filter_key(other, ["x", "y", "x"], KNOWN)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_filters_that_differ_have_different_keys(one: list[Condition], other: list[Condition]) -> None:
    assert filter_key(one, None, KNOWN) != filter_key(other, None, KNOWN)
    assert filter_key(one, None, KNOWN) != filter_key(one, [], KNOWN) != filter_key(one, ["x"], KNOWN)
