"""Items and codes, asked of a reader that speaks real frames over a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.engine_client import Router
from service.frames import Children, Find, Lookup

from .client import client_of
from .little_engine import Die, LittleEngine, engine, routes

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def reading(router: Router, folder: Path, **values: Any) -> AsyncIterator[tuple[httpx.AsyncClient, LittleEngine]]:
    async with engine(folder) as reader, client_of(router, **values) as client:
        await router.switch(routes(None, reader=reader))
        yield client, reader


async def test_an_items_document_is_sent_as_it_is(router: Router, folder: Path) -> None:
    async with reading(router, folder) as (client, reader):
        got = await client.get("/items/a")
    assert (got.status_code, got.headers["Content-Type"], got.content) == (200, "application/json", b'{"item_id":"a"}')
    assert isinstance(reader.asked[0], Lookup)


@pytest.mark.parametrize("path", ["/items/a/b%20c", "/items/a%2Fb%20c"])
async def test_an_item_id_may_hold_slashes_and_spaces(router: Router, folder: Path, path: str) -> None:
    async with reading(router, folder) as (client, _):
        assert (await client.get(path)).json() == {"item_id": "a/b c"}


async def test_an_unknown_item_is_404(router: Router, folder: Path) -> None:
    async with reading(router, folder) as (client, _):
        got = await client.get("/items/nothing")
    assert (got.status_code, got.json()["code"]) == (404, "unknown_item")
    assert got.headers["Content-Type"] == "application/problem+json"


async def test_a_search_has_words_a_limit_and_an_offset(router: Router, folder: Path) -> None:
    async with reading(router, folder) as (client, reader):
        await client.get("/items", params={"query": "é mask", "limit": 7, "offset": 14})
        await client.get("/items")
    first, second = reader.asked
    assert isinstance(first, Find)
    assert isinstance(second, Find)
    assert (first.text, first.limit, first.offset) == ("é mask", 7, 14)
    assert (second.text, second.limit, second.offset) == ("", 20, 0)


@pytest.mark.parametrize(("prefix", "tokens"), [("", []), ("12", [12]), ("12.7", [12, 7]), ("0.00.3", [0, 0, 3])])
async def test_a_prefix_is_tokens_with_dots_between_them(
    router: Router, folder: Path, prefix: str, tokens: list[int]
) -> None:
    async with reading(router, folder) as (client, reader):
        got = await client.get("/trie", params={"prefix": prefix, "limit": 3})
    assert got.json() == {"prefix": tokens, "limit": 3}
    assert isinstance(reader.asked[0], Children)


async def test_a_prefix_no_code_has_is_404(router: Router, folder: Path) -> None:
    async with reading(router, folder) as (client, _):
        got = await client.get("/trie?prefix=9")
    assert (got.status_code, got.json()["code"]) == (404, "unknown_prefix")


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/trie?prefix=1..2", "/prefix"),
        ("/trie?prefix=.", "/prefix"),
        ("/trie?prefix=1.", "/prefix"),
        ("/trie?prefix=-1", "/prefix"),
        ("/trie?prefix=1,2", "/prefix"),
        ("/trie?prefix=١", "/prefix"),
        ("/trie?prefix=9999999999", "/prefix"),
        ("/trie?prefix=" + "1." * 200 + "1", "/prefix"),
        ("/trie?limit=0", "/limit"),
        ("/items?limit=1001", "/limit"),
        ("/items?limit=x", "/limit"),
        ("/items?offset=-1", "/offset"),
        ("/items?query=" + "x" * 257, "/query"),
    ],
)
async def test_a_wrong_parameter_is_422_and_asks_nobody(router: Router, folder: Path, path: str, pointer: str) -> None:
    async with reading(router, folder) as (client, reader):
        got = await client.get(path)
    assert (got.status_code, [error["pointer"] for error in got.json()["errors"]]) == (422, [pointer])
    assert got.json()["errors"][0]["detail"].startswith("must ")
    assert not reader.asked


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/items?q=tent&limit=3", "/q is not a parameter of this path, which takes query, limit, offset"),
        ("/trie?prefix=&limt=5", "/limt is not a parameter of this path, which takes prefix, limit"),
    ],
)
async def test_a_parameter_that_would_be_passed_by_is_422(router: Router, folder: Path, path: str, detail: str) -> None:
    async with reading(router, folder) as (client, reader):
        got = await client.get(path)
    assert (got.status_code, got.json()["detail"]) == (422, detail)
    assert not reader.asked


@pytest.mark.parametrize("path", ["/items/a", "/items", "/trie"])
async def test_without_a_reader_the_answer_is_503(router: Router, path: str) -> None:
    async with client_of(router) as client:
        got = await client.get(path)
    assert (got.status_code, got.json()["code"]) == (503, "not_ready")
    assert "reader" in got.json()["detail"]
    assert got.headers["Retry-After"] == "1"


async def test_a_reader_that_ends_is_503_too(router: Router, folder: Path) -> None:
    def die(_message: Any) -> None:
        raise Die

    async with reading(router, folder) as (client, reader):
        reader.reading = die
        got = await client.get("/items/a")
    assert (got.status_code, got.json()["code"]) == (503, "not_ready")


async def test_a_reader_that_is_silent_is_504_in_time(router: Router, folder: Path) -> None:
    async with reading(router, folder, default_timeout_ms=50) as (client, reader):
        reader.reading = lambda _message: None
        got = await client.get("/items/a")
    assert (got.status_code, got.json()["code"]) == (504, "deadline_exceeded")
