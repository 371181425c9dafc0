"""What is wrong with a body is said in one sentence, with a pointer to each wrong field."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from service.api.body import MOST_ERRORS, check, parse
from service.api.catalog_schemas import AddItems, PatchItems, RemoveItems
from service.api.schemas import RecommendRequest
from service.errors import BadJson, BadRequest, pointer

NOT_JSON = [
    (b"", "empty"),
    (b"{", "line 1 column 2"),
    (b'{"history": [],}', "line 1 column"),
    (b"{'history': []}", "line 1 column 2"),
    (b'{"history": [NaN]}', "NaN is not a JSON number"),
    (b'{"history": [], "k": Infinity}', "Infinity is not a JSON number"),
    (b'{"history": [], "k": -Infinity}', "-Infinity is not a JSON number"),
    (b'{"history": ["\xff"]}', "not UTF-8: byte 14"),
    (b'{"history": [], "k": 1, "k": 2}', "'k' appears twice"),
    (b"[" * 100_000, "too deep"),
    (b'{"history": [], "k": ' + b"9" * 5000 + b"}", "too many digits"),
    (b'{"history": []} {}', "extra data"),
    ('{"history": []}'.encode("utf-16"), "not UTF-8"),
    (b'{"history": ["\\uD800"]}', "surrogate"),
    (b'{"history": [], "\\udfff": 1}', "surrogate"),
]

WRONG: list[tuple[Any, dict[str, str]]] = [
    ([], {"": "must be an object"}),
    (None, {"": "must be an object"}),
    ("text", {"": "must be an object"}),
    ({}, {"/history": "is required"}),
    ({"history": "item-1"}, {"/history": "must be an array"}),
    ({"history": None}, {"/history": "must be an array"}),
    ({"history": ["a", 7, None]}, {"/history/1": "must be a string"}),
    ({"history": [], "k": "10"}, {"/k": "must be an integer"}),
    ({"history": [], "k": True}, {"/k": "must be an integer"}),
    ({"history": [], "k": 1.0}, {"/k": "must be an integer"}),
    ({"history": [], "k": 0}, {"/k": "must be greater than or equal to 1"}),
    ({"history": [], "k": 10**30}, {"/k": "must be less than or equal to 1000000"}),
    ({"history": [], "exclude_seen": 1}, {"/exclude_seen": "must be true or false"}),
    ({"history": [], "exclude": {"a": 1}}, {"/exclude": "must be an array"}),
    ({"history": [], "beam_width": -1}, {"/beam_width": "must be greater than or equal to 1"}),
    ({"history": [], "timeout_ms": 0}, {"/timeout_ms": "must be greater than or equal to 1"}),
    ({"history": [], "user_id": 5}, {"/user_id": "must be a string"}),
    (
        {"history": [], "return": ["everything"]},
        {"/return/0": "must be 'metadata', 'codes', 'scores', 'explain' or 'timings'"},
    ),
    ({"history": [], "parts": []}, {"/parts": "is not a field of this request"}),
    ({"history": [], "a/b~c": 1}, {"/a~1b~0c": "is not a field of this request"}),
    ({"k": 0, "filters": {}}, {"/history": "", "/k": "", "/filters": ""}),
    ({"history": [], "filter": []}, {"/filter": "must be an object"}),
    ({"history": [], "filter": {"genre": "Drama"}}, {"/filter/genre": 'must be an object, such as {"any_of": ["…"]}'}),
    ({"history": [], "filter": {"color": {}}}, {"/filter/color": "must have at least one of any_of"}),
    ({"history": [], "filter": {"color": {"like": "r"}}}, {"/filter/color/like": "is not a field of this request"}),
    ({"history": [], "filter": {"color": {"any_of": []}}}, {"/filter/color/any_of": "must have at least 1 item"}),
    ({"history": [], "filter": {"color": {"any_of": "red"}}}, {"/filter/color/any_of": "must be an array"}),
    ({"history": [], "filter": {"a/b": {"none_of": [1, None]}}}, {"/filter/a~1b/none_of/1": "must be a string, a fin"}),
    ({"history": [], "filter": {"n": {"any_of": [10**400]}}}, {"/filter/n/any_of/0": "must be a string, a finite"}),
    (
        {"history": [], "filter": {"n": {"gte": "1", "lte": True}}},
        {"/filter/n/gte": "", "/filter/n/lte": "must be a n"},
    ),
    ({"history": [], "include_items": [1]}, {"/include_items/0": "must be a string"}),
    ({"history": [], "diversity": 1.5}, {"/diversity": "must be less than or equal to 1"}),
    ({"history": [], "diversity": "much"}, {"/diversity": "must be a number"}),
    ({"history": [], "min_score": "low"}, {"/min_score": "must be a number"}),
    ({"history": [], "model_version": 2}, {"/model_version": "must be a string"}),
]


@pytest.mark.parametrize(("body", "says"), NOT_JSON)
def test_what_is_not_json_is_refused_as_such(body: bytes, says: str) -> None:
    with pytest.raises(BadJson) as caught:
        parse(body, RecommendRequest)
    assert says in str(caught.value)


@pytest.mark.parametrize(("value", "expected"), WRONG)
def test_each_wrong_field_has_a_pointer(value: Any, expected: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(json.dumps(value).encode(), RecommendRequest)
    found = {error["pointer"]: error["detail"] for error in caught.value.errors}
    assert found.keys() == expected.keys()
    assert all(found[field].startswith(detail) for field, detail in expected.items())


def test_a_number_beyond_floats_is_no_integer() -> None:
    with pytest.raises(BadRequest, match="/k"):
        parse(b'{"history": [], "k": 1e999}', RecommendRequest)


@pytest.mark.parametrize("field", ["min_score", "diversity"])
def test_numbers_beyond_floats_are_refused(field: str) -> None:
    with pytest.raises(BadRequest, match=f"/{field} must be a finite number"):
        parse(f'{{"history": [], "{field}": 1e999}}'.encode(), RecommendRequest)


def test_filter_values_keep_their_kinds_and_integers_become_floats() -> None:
    body = b'{"history": [], "filter": {"a": {"any_of": [1, true, "1"], "gte": 2}}}'
    wish = parse(body, RecommendRequest).filter["a"]
    assert wish.any_of is not None
    assert [(type(value), value) for value in wish.any_of] == [(float, 1.0), (bool, True), (str, "1")]
    assert (wish.gte, wish.lte, wish.value_count) == (2.0, None, 4)


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert parse(b'{"history": ["\\ud83d\\ude00"]}', RecommendRequest).history == ["\U0001f600"]


def test_of_many_wrong_fields_the_first_are_told_and_all_are_counted() -> None:
    with pytest.raises(BadRequest, match="999 more") as caught:
        parse(json.dumps({"history": [], "filter": {str(n): {} for n in range(1000)}}).encode(), RecommendRequest)
    assert len(caught.value.errors) == MOST_ERRORS


LISTS: list[tuple[type[BaseModel], str, Any, Any]] = [
    (RecommendRequest, "/history", "a", 1),
    (RecommendRequest, "/exclude", "a", 1),
    (RecommendRequest, "/include_items", "a", 1),
    (RecommendRequest, "/return", "codes", 0),
    (RecommendRequest, "/filter/a/any_of", 1, []),
    (RecommendRequest, "/filter/a/none_of", 1, []),
    (RemoveItems, "/item_ids", "a", 0),
    (PatchItems, "/items", {"item_id": "a", "reset": True}, 0),
    (AddItems, "/items", {"item": {"item_id": "a"}}, {}),
    (AddItems, "/items/0/embedding", 0.5, "x"),
]


@pytest.mark.parametrize(("model", "place", "right", "wrong"), LISTS)
def test_of_a_list_the_first_wrong_entry_is_told(model: type[BaseModel], place: str, right: Any, wrong: Any) -> None:
    """A million wrong ones would be a million errors, seconds of a worker, to tell twenty."""
    body: dict[str, Any] = {"history": []} if model is RecommendRequest else {}
    if place.endswith("embedding"):
        body["items"] = [{"item": {"item_id": "a"}}]
    *path, last = (int(step) if step.isdecimal() else step for step in place.split("/")[1:])
    holder: Any = body
    for step in path:
        holder = holder[step] if isinstance(step, int) else holder.setdefault(step, {})
    holder[last] = [right] * 3 + [wrong] * 4
    with pytest.raises(BadRequest) as caught:
        check(body, model)
    assert {error["pointer"].startswith(f"{place}/3") for error in caught.value.errors} == {True}
    assert len(caught.value.errors) == 1
    holder[last] = [right] * 3
    check(body, model)


def test_an_object_of_a_hundred_thousand_fields_is_refused_as_a_whole() -> None:
    fields: dict[str, Any] = {str(number): {} for number in range(100_000)}
    for value, pointer_of in (
        ({"history": [], **fields}, ""),
        ({"history": [], "filter": fields}, "/filter"),
        ({"history": [], "filter": {"a": fields}}, "/filter/a"),
        ({"items": [{"item_id": "a", **fields}]}, "/items/0"),
    ):
        with pytest.raises(BadRequest) as caught:
            check(value, PatchItems if "items" in value else RecommendRequest)
        assert [error["pointer"] for error in caught.value.errors] == [pointer_of]


def test_the_name_that_appears_twice_is_found_among_many() -> None:
    names = "".join(f'"{number}": 0, ' for number in range(100_000))
    with pytest.raises(BadJson, match="'99999' appears twice"):
        parse(f'{{{names}"99999": 1}}'.encode(), RecommendRequest)


def test_a_right_body_is_what_it_says() -> None:
    parsed = parse('{"history": ["é", ""], "k": 3, "return": ["codes"]}'.encode(), RecommendRequest)
    assert (parsed.history, parsed.k, parsed.parts, parsed.exclude_seen) == (["é", ""], 3, ["codes"], True)


def test_other_models_are_checked_alike() -> None:
    class Other(BaseModel):
        name: str

    assert parse(b'{"name": "x"}', Other).name == "x"


def test_a_pointer_escapes_what_rfc_6901_escapes() -> None:
    assert pointer("a/b", 0, "~") == "/a~1b/0/~0"
