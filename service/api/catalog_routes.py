"""Changes of the catalog, behind a token: checked by the reader, kept in Redis, followed by every replica."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from service.errors import (
    BadItem,
    BadRequest,
    CatalogFull,
    CatalogLost,
    DeadlineExceeded,
    Draining,
    EngineFailed,
    NoTextEncoder,
    NotFollowed,
    NotReady,
)
from service.settings import Settings
from service.store import CatalogPage

from .access import token_check
from .body import only_known_parameters, parse, read_body
from .catalog_editor import CatalogEditor
from .catalog_schemas import (
    CATALOG_EXAMPLE,
    CHANGES_EXAMPLE,
    AddItems,
    CatalogAnswer,
    ChangedItems,
    PatchItems,
    RemoveItems,
)
from .connected import WhileConnected
from .engine_client import Router
from .library import Library
from .operations import ADMIN, BODY, answer, errors, request_body

_PATH = "/catalog/items"

Since = Annotated[int, Query(ge=0, description="Only items that have changed after this catalog revision.")]
Limit = Annotated[int, Query(ge=1, le=10_000, description="About so many items; of a revision all are told, or none.")]


def create_catalog_routes(settings: Settings, router: Router, library: Library) -> APIRouter:
    api = APIRouter(tags=["catalog"], dependencies=[Depends(token_check(settings.admin_token))])
    editor, most_bytes = CatalogEditor(settings, router, library), settings.max_catalog_body_bytes

    async def patch_items(request: Request) -> CatalogAnswer:
        """Makes items unavailable or available, and sets attributes that filters and answers go by, at once."""
        wanted = parse(await read_body(request, most_bytes), PatchItems)
        with WhileConnected(request.receive):
            return await editor.patch(wanted.items, wanted.wait_ms)

    async def add_items(request: Request) -> CatalogAnswer:
        """Adds items, which the model that serves recommends without being trained again."""
        wanted = parse(await read_body(request, most_bytes), AddItems)
        with WhileConnected(request.receive):
            return await editor.add(wanted.items, wanted.wait_ms)

    async def remove_items(request: Request) -> CatalogAnswer:
        """Removes items for good, in every version, until they are added again."""
        wanted = parse(await read_body(request, most_bytes), RemoveItems)
        with WhileConnected(request.receive):
            return await editor.remove(wanted.item_ids, wanted.wait_ms)

    async def changes(since: Since = 0, limit: Limit = 1000) -> Response:
        """What was changed live and how each item stands now, for a copy of it, or to see what a new model inherits."""
        body = await library.ask(lambda store: _changed_items(store.catalog_page(since, limit)))
        return Response(body, media_type="application/json")

    changing = (*ADMIN, *BODY, BadItem, CatalogLost, EngineFailed, NotReady, Draining, DeadlineExceeded, NotFollowed)
    plain = errors(*changing) | answer(CATALOG_EXAMPLE)
    adding = errors(*changing, CatalogFull, NoTextEncoder) | answer(CATALOG_EXAMPLE)
    api.patch(_PATH, openapi_extra=request_body(PatchItems), responses=plain)(patch_items)
    api.post(_PATH, openapi_extra=request_body(AddItems), responses=adding)(add_items)
    api.get(
        "/catalog/changes",
        response_model=ChangedItems,
        responses=errors(*ADMIN, BadRequest) | answer(CHANGES_EXAMPLE),
        dependencies=[Depends(only_known_parameters)],
    )(changes)
    api.delete(_PATH, openapi_extra=request_body(RemoveItems), responses=plain)(remove_items)
    return api


def _changed_items(page: CatalogPage) -> bytes:
    """As `ChangedItems`, written where it holds no event loop up: it may be megabytes."""
    items = [
        {
            "item_id": one.item_id,
            "revision": one.revision,
            "available": one.available,
            "removed": one.removed,
            "attributes": one.attributes,
            "item": one.item,
        }
        for one in page.records
    ]
    return msgspec.json.encode(
        {"catalog_revision": page.revision, "catalog_era": page.era, "items": items, "next": page.then}
    )
