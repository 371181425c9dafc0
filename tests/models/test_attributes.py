import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifact import Artifact
from models.attribute_columns import MOST_FIELDS
from models.attribute_values import Attribute, UnfilterableError, read_attribute
from models.attributes import SCHEMA, Attributes
from models.errors import ArtifactCorruptError
from tests.catalog_artifact import catalog_artifact


def built(*metadata: dict[str, Any]) -> Attributes:
    return Attributes.build(metadata)


def marked(attributes: Attributes, name: str, values: Sequence[str | float | bool]) -> list[int]:
    mask = np.zeros(attributes.item_count, dtype=bool)
    attributes.mark(name, values, mask)
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ("keyword", ("a",))),
        ("", ("keyword", ("",))),
        (["b", "a", "b"], ("keyword", ("b", "a"))),
        ([["a", ["b"]], None, "c"], ("keyword", ("a", "b", "c"))),
        (3, ("number", (3.0,))),
        (-0.5, ("number", (-0.5,))),
        (True, ("boolean", (True,))),
        (None, None),
        ([], None),
        ([[], [None]], None),
    ],
)
def test_a_value_is_read_as_its_kind(value: Any, expected: Attribute | None) -> None:
    assert read_attribute(value) == expected


@pytest.mark.parametrize("value", [{}, {"a": 1}, [1], ["a", 1], [True], ["a", {}], "x" * 129, ["x" * 129], 10**400])
def test_what_no_filter_can_compare_is_refused(value: Any) -> None:
    with pytest.raises(UnfilterableError):
        read_attribute(value)


def test_fields_get_the_kind_of_their_values() -> None:
    attributes = built(
        {"item_id": "i", "k": "a", "n": 1, "b": False}, {"item_id": "j", "k": ["b"], "n": 2.5, "x": None}
    )
    assert attributes.fields == {"k": "keyword", "n": "number", "b": "boolean"}
    assert not attributes.refused


def test_a_field_of_two_kinds_or_with_an_unfit_value_is_refused() -> None:
    attributes = built({"mixed": 1, "long": "x", "fine": "y"}, {"mixed": "1", "long": "x" * 129}, {"mixed": 2})
    assert attributes.fields == {"fine": "keyword"}
    assert attributes.refused == {
        "mixed": "is a number for some items and a keyword for others",
        "long": "holds a string of 129 characters, more than 128",
    }


def test_true_is_no_number() -> None:
    assert built({"x": 1}, {"x": True}).refused.keys() == {"x"}


def test_a_keyword_that_tells_most_items_apart_is_refused_in_a_large_catalog() -> None:
    large = built(*({"name": str(n), "half": str(n // 2), "n": n} for n in range(1002)))
    assert large.fields == {"half": "keyword", "n": "number"}
    assert large.refused == {"name": "has another text for more than every second item, as a name has"}
    assert built(*({"name": str(n)} for n in range(1000))).fields == {"name": "keyword"}


def test_an_export_that_kept_no_reasons_can_be_read(tmp_path: Path) -> None:
    path = catalog_artifact(tmp_path, [{"bad": {}}, {}]).folder / "attributes.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"refused": ["bad"]}))
    assert "bad" in Attributes.open(Artifact.open(path.parent, verify=False)).refused


def test_the_fields_of_most_items_are_kept() -> None:
    attributes = built(*({f"f{n:03}": n for n in range(MOST_FIELDS + 5)} for _ in range(2)), {"f104": 1})
    assert len(attributes.fields) == MOST_FIELDS
    assert "f104" in attributes.fields
    assert set(attributes.refused.values()) == {f"is not among the {MOST_FIELDS} that most items have"}
    assert attributes.refused.keys() == {"f099", "f100", "f101", "f102", "f103"}


def test_a_catalog_without_attributes_is_one_too(tmp_path: Path) -> None:
    assert catalog_artifact(tmp_path, [{}, {}]).attributes.fields == {}


def test_numbers_are_found_between_bounds_and_missing_ones_never() -> None:
    attributes = built({"n": 1}, {}, {"n": -2}, {"n": 5})
    assert attributes.within("n", None, None, slice(None)).tolist() == [True, False, True, True]
    assert attributes.within("n", -2, 1, slice(None)).tolist() == [True, False, True, False]
    assert attributes.within("n", 1.5, None, np.array([3, 1, 0], dtype=np.int32)).tolist() == [True, False, False]


TEXTS = st.sampled_from(["a", "b", "ü", "", "0\0a", "long-" + "x" * 100])
NUMBERS = st.sampled_from([-1.5, 0.0, -0.0, 1.0, 2.0, 1e300])
ROWS = st.lists(
    st.fixed_dictionaries(
        {}, optional={"k": TEXTS | st.lists(TEXTS, max_size=3), "n": NUMBERS, "b": st.booleans(), "k2": TEXTS}
    ),
    min_size=1,
    max_size=12,
)
WANTED: dict[str, st.SearchStrategy[list[Any]]] = {
    "k": st.lists(TEXTS | st.just("nowhere"), max_size=4),
    "k2": st.lists(TEXTS, max_size=4),
    "n": st.lists(NUMBERS | st.just(7.0), max_size=4),
    "b": st.lists(st.booleans(), max_size=2),
}


@given(ROWS, st.data())
def test_every_value_is_found_where_it_is_and_nowhere_else(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    attributes = Attributes.build(rows)
    for name in attributes.fields:
        wanted = data.draw(WANTED[name])
        having = [row.get(name) if isinstance(row.get(name), list) else [row.get(name)] for row in rows]
        expected = [item for item, values in enumerate(having) if set(values or ()) & set(wanted)]
        assert marked(attributes, name, wanted) == expected
        every = np.arange(len(rows), dtype=np.int32)[::-1]
        assert every[attributes.holds(name, wanted, every)].tolist() == expected[::-1]
        held = {value for values in having for value in values or ()}
        assert attributes.unheld(name, wanted) == [value for value in wanted if value not in held]


def test_what_is_written_is_read_back_and_mapped(tmp_path: Path) -> None:
    rows = [{"k": ["ü", "b"], "n": 3, "b": True, "bad": {}}, {"k": "ü", "n": 2}]
    opened = catalog_artifact(tmp_path, rows).attributes
    assert opened.fields == {"k": "keyword", "n": "number", "b": "boolean"}
    assert opened.refused == {"bad": "is an object"}
    assert (marked(opened, "k", ["ü"]), marked(opened, "n", [2, 3]), marked(opened, "b", [True])) == (
        [0, 1],
        [0, 1],
        [0],
    )
    assert isinstance(opened.numbers.base, np.memmap)


def test_a_broken_schema_is_an_artifact_error(tmp_path: Path) -> None:
    artifact = catalog_artifact(tmp_path, [{"k": "a"}])
    (artifact.folder / SCHEMA).write_text('{"fields": [{"name": "k"}], "refused": []}')
    with pytest.raises(ArtifactCorruptError, match=r"attributes\.json"):
        _ = artifact.attributes
