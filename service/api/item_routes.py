"""Items and codes of the model that serves, answered by the reader process; its JSON is sent as it is."""

import re
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response

from service.errors import FieldError, UnknownItem, UnknownPrefix
from service.frames import Children, Document, Find, Lookup
from service.settings import Settings

from .body import bad_request, only_known_parameters
from .engine_client import Router
from .item_schemas import ItemAnswer, ItemsAnswer, TrieAnswer
from .operations import READING, errors
from .reader_client import ask_reader

_PREFIX: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})*)?", re.ASCII)

Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="So many are left out first.")]
Text = Annotated[
    str, Query(max_length=256, description="Words that id, title or other text must all hold; none: every item.")
]
Prefix = Annotated[
    str, Query(max_length=256, description="Tokens with dots between them, as `12.7`; empty: the first level.")
]


def create_item_routes(settings: Settings, router: Router) -> APIRouter:
    api, checked = APIRouter(tags=["items"]), [Depends(only_known_parameters)]
    timeout_s = settings.default_timeout_ms / 1000

    async def item(item_id: str) -> Response:
        """One item: its code, its metadata, what filters see, and whether it may be recommended."""
        return _send(await ask_reader(router, lambda query_id: Lookup(query_id, item_id), Document, timeout_s))

    async def items(query: Text = "", limit: Limit = 20, offset: Offset = 0) -> Response:
        """Items whose id, title or other text holds every word of `query`."""
        return _send(await ask_reader(router, lambda number: Find(number, query, limit, offset), Document, timeout_s))

    async def trie(prefix: Prefix = "", limit: Limit = 100) -> Response:
        """What may follow a prefix of tokens, and which items are under it."""
        tokens = parse_prefix(prefix)
        return _send(await ask_reader(router, lambda query_id: Children(query_id, tokens, limit), Document, timeout_s))

    api.get("/items", response_model=ItemsAnswer, responses=errors(*READING), dependencies=checked)(items)
    api.get("/items/{item_id:path}", response_model=ItemAnswer, responses=errors(UnknownItem, *READING))(item)
    api.get("/trie", response_model=TrieAnswer, responses=errors(UnknownPrefix, *READING), dependencies=checked)(trie)
    return api


def parse_prefix(prefix: str) -> list[int]:
    """Raises BadRequest unless it is tokens with dots between them, or empty."""
    if not _PREFIX.fullmatch(prefix):
        raise bad_request([FieldError(pointer="/prefix", detail="must be tokens with dots between them, as 12.7")])
    return [int(token) for token in prefix.split(".")] if prefix else []


def _send(document: Document) -> Response:
    return Response(document.body, headers={"X-Model-Version": document.model_version}, media_type="application/json")
