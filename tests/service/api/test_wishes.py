"""Filters, pins, diversity and explanations: what reaches the engine, and what comes back."""

from pathlib import Path
from typing import Any

import pytest

from service.api.control import Routes
from service.api.engine_client import Router
from service.api.schemas import RecommendAnswer
from service.frames import Answer, Condition, Failure, Query

from .client import client_of
from .little_engine import answer, engine, routes

pytestmark = pytest.mark.anyio


async def test_the_engine_gets_every_wish(router: Router, folder: Path) -> None:
    wishes = {
        "filter": {"genre": {"any_of": ["a", "b"]}, "year": {"gte": 1990, "lte": 1999.5, "none_of": [1995]}},
        "include_items": ["x", "y"],
        "diversity": 0.25,
        "min_score": -3,
        "return": ["explain"],
    }
    async with engine(folder) as little, client_of(router) as client:
        await router.switch(routes(little))
        got = await client.post("/recommend", json={"history": ["a"], "k": 1} | wishes)
    assert got.status_code == 200
    (query,) = little.queries
    assert query.filter == [
        Condition("genre", any_of=["a", "b"]),
        Condition("year", none_of=[1995.0], gte=1990.0, lte=1999.5),
    ]
    assert (query.include_items, query.diversity, query.min_score) == (["x", "y"], 0.25, -3.0)
    assert query.with_explain


async def test_without_wishes_the_query_says_so(router: Router, folder: Path) -> None:
    async with engine(folder) as little, client_of(router) as client:
        await router.switch(routes(little))
        await client.post("/recommend", json={"history": []})
    (query,) = little.queries
    assert (query.filter, query.include_items, query.diversity, query.min_score) == ([], None, 0.0, None)
    assert not query.with_explain


async def test_an_explanation_has_the_tokens_the_near_items_and_the_attributes_as_they_are(
    router: Router, folder: Path
) -> None:
    async with engine(folder) as little, client_of(router) as client:
        await router.switch(routes(little))
        got = await client.post("/recommend", json={"history": ["a"], "k": 2, "return": ["explain"]})
    assert b'{"color":  "red"}' in got.content
    RecommendAnswer.model_validate_json(got.content)
    assert got.json()["items"][1]["explain"] == {
        "levels": [{"token": 1, "log_prob": -0.5}, {"token": 7, "log_prob": -1.5}],
        "nearest": [{"item_id": "a", "shared_tokens": 1}],
        "attributes": {"color": "red"},
    }


async def test_where_popularity_answers_tokens_have_no_probability(router: Router, folder: Path) -> None:
    def behave(query: Query) -> Answer:
        found = answer(query, source="popular", code_scores=[])
        for explained in found.explanations or []:
            explained.log_probs = []
        return found

    async with engine(folder, behave) as little, client_of(router) as client:
        await router.switch(routes(little))
        got = await client.post("/recommend", json={"history": [], "k": 1, "return": ["explain"]})
    RecommendAnswer.model_validate_json(got.content)
    assert [level["log_prob"] for level in got.json()["items"][0]["explain"]["levels"]] == [None, None]


@pytest.mark.parametrize(("unknown", "own"), [(0, []), (1, ["1 history item is not in the catalog"])])
async def test_the_engines_revision_and_warnings_are_told_beside_the_workers_own(
    router: Router, folder: Path, unknown: int, own: list[str]
) -> None:
    def behave(query: Query) -> Answer:
        return answer(query, unknown=unknown, catalog_revision=9, warnings=["the filter leaves few items"])

    async with engine(folder, behave) as little, client_of(router) as client:
        await router.switch(routes(little))
        body = (await client.post("/recommend", json={"history": ["a", "?"], "k": 1})).json()
    assert body["catalog_revision"] == 9
    assert body["warnings"] == [*own, "the filter leaves few items"]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"filter": {"a": {"any_of": ["x"] * 3}, "b": {"none_of": ["y"]}}}, ["/filter"]),
        ({"filter": {"a": {"any_of": ["x"], "none_of": ["y"], "gte": 1, "lte": 2}}}, ["/filter"]),
        ({"include_items": ["x"] * 4}, ["/include_items"]),
    ],
)
async def test_more_values_than_allowed_are_422(
    router: Router, folder: Path, body: dict[str, Any], pointers: list[str]
) -> None:
    async with engine(folder) as little, client_of(router, max_filter_values=3) as client:
        await router.switch(routes(little))
        got = await client.post("/recommend", json={"history": []} | body)
        assert (await client.post("/recommend", json={"history": [], "include_items": ["x"] * 3})).status_code == 200
    assert (got.status_code, [error["pointer"] for error in got.json()["errors"]]) == (422, pointers)


async def test_an_empty_list_of_allowed_items_is_not_the_same_as_none(router: Router, folder: Path) -> None:
    async with engine(folder) as little, client_of(router) as client:
        await router.switch(routes(little))
        await client.post("/recommend", json={"history": [], "include_items": []})
    assert little.queries[0].include_items == []


async def test_what_the_engine_says_of_a_filter_is_422_with_its_pointers(router: Router, folder: Path) -> None:
    wrong = [("/filter/gene", "is no attribute; there are genre, year"), ("/filter/year/any_of/0", "must be a number")]

    def refuse(query: Query) -> Failure:
        return Failure(query.query_id, "bad_filter", "the filter is wrong", wrong)

    async with engine(folder, refuse) as little, client_of(router) as client:
        await router.switch(routes(little))
        got = await client.post("/recommend", json={"history": [], "filter": {"gene": {"any_of": ["x"]}}})
    assert (got.status_code, got.json()["code"], got.json()["detail"]) == (422, "bad_filter", "the filter is wrong")
    assert [(error["pointer"], error["detail"]) for error in got.json()["errors"]] == wrong


async def test_a_pinned_version_answers_even_if_another_is_active(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, version="v2") as other, client_of(router) as client:
        await router.switch(Routes(1, active.route, others=(other.route,)))
        got = await client.post("/recommend", json={"history": [], "model_version": "v2"})
        missing = await client.post("/recommend", json={"history": [], "model_version": "v3"})
    assert (got.json()["model_version"], got.headers["X-Model-Version"]) == ("v2", "v2")
    assert (missing.status_code, missing.json()["code"]) == (409, "not_loaded")


async def test_a_user_stays_with_the_canary(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, version="v2") as other, client_of(router) as client:
        await router.switch(Routes(1, active.route, others=(other.route,), canary="v2", canary_percent=50.0))
        seen: dict[str, str] = {}
        for user in [f"user-{number}" for number in range(20)] * 2:
            body = (await client.post("/recommend", json={"history": [], "user_id": user})).json()
            assert seen.setdefault(user, body["model_version"]) == body["model_version"]
    assert set(seen.values()) == {"v1", "v2"}
