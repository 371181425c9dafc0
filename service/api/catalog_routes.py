"""Changes of the catalog, behind a token: checked by the reader, kept in Redis, followed by every replica."""

from fastapi import APIRouter, Depends, Request

from service.errors import (
    BadItem,
    CatalogFull,
    DeadlineExceeded,
    Draining,
    EngineFailed,
    NoTextEncoder,
    NotFollowed,
    NotReady,
)
from service.settings import Settings

from .access import token_check
from .body import parse, read_body
from .catalog_editor import CatalogEditor
from .catalog_schemas import CATALOG_EXAMPLE, AddItems, CatalogAnswer, PatchItems, RemoveItems
from .connected import WhileConnected
from .engine_client import Router
from .library import Library
from .operations import ADMIN, BODY, answer, errors, request_body

_PATH = "/catalog/items"


def create_catalog_routes(settings: Settings, router: Router, library: Library) -> APIRouter:
    api = APIRouter(tags=["catalog"], dependencies=[Depends(token_check(settings.admin_token))])
    editor = CatalogEditor(settings, router, library)

    async def patch_items(request: Request) -> CatalogAnswer:
        """Makes items unavailable or available, and sets attributes that filters and answers go by, at once."""
        wanted = parse(await read_body(request, settings.max_body_bytes), PatchItems)
        with WhileConnected(request.receive):
            return await editor.patch(wanted.items, wanted.wait_ms)

    async def add_items(request: Request) -> CatalogAnswer:
        """Adds items, which the model that serves recommends without being trained again."""
        wanted = parse(await read_body(request, settings.max_body_bytes), AddItems)
        with WhileConnected(request.receive):
            return await editor.add(wanted.items, wanted.wait_ms)

    async def remove_items(request: Request) -> CatalogAnswer:
        """Removes items for good, in every version, until they are added again."""
        wanted = parse(await read_body(request, settings.max_body_bytes), RemoveItems)
        with WhileConnected(request.receive):
            return await editor.remove(wanted.item_ids, wanted.wait_ms)

    changing = (*ADMIN, *BODY, BadItem, EngineFailed, NotReady, Draining, DeadlineExceeded, NotFollowed)
    plain = errors(*changing) | answer(CATALOG_EXAMPLE)
    adding = errors(*changing, CatalogFull, NoTextEncoder) | answer(CATALOG_EXAMPLE)
    api.patch(_PATH, openapi_extra=request_body(PatchItems), responses=plain)(patch_items)
    api.post(_PATH, openapi_extra=request_body(AddItems), responses=adding)(add_items)
    api.delete(_PATH, openapi_extra=request_body(RemoveItems), responses=plain)(remove_items)
    return api
