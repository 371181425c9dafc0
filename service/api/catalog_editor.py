"""One change of the catalog: asked of the reader, written to Redis, and waited for."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from service.catalog.records import ItemChange
from service.errors import Draining, FieldError, NotFollowed
from service.frames import Checked, CheckPatch, Prepare, Prepared
from service.settings import Settings
from service.store import CatalogChanged

from .body import bad_request
from .catalog_schemas import CatalogAnswer, ItemPatch, NewItem
from .engine_client import Router
from .library import Library
from .reader_client import ask_reader

_LOOK_EVERY_S: Final = 0.005


class CatalogEditor:
    """Each method changes all of the items, or raises before anything has changed.

    Raises BadRequest and BadItem with pointers into the request, CatalogFull, NoTextEncoder, NotReady,
    StoreUnavailable, CatalogLost; NotFollowed after a change that this replica did not follow in `wait_ms`.
    """

    def __init__(self, settings: Settings, router: Router, library: Library) -> None:
        self._settings = settings
        self._router = router
        self._library = library
        self._reader_timeout_s = settings.max_timeout_ms / 1000  # a thousand texts take an encoder its time

    async def patch(self, items: Sequence[ItemPatch], wait_ms: int | None) -> CatalogAnswer:
        ids = [item.item_id for item in items]
        self._check_rows(ids, "items", "/item_id", wait_ms)
        unknown = await self._unknown(
            ids, [None if item.attributes is None else _json(item.attributes) for item in items]
        )
        changes = [
            ItemChange(item.item_id, reset=item.reset, available=item.available, attributes=item.attributes)
            for item in items
        ]
        return await self._change(changes, unknown, wait_ms)

    async def add(self, items: Sequence[NewItem], wait_ms: int | None) -> CatalogAnswer:
        metadata = [item.item.model_dump() for item in items]
        self._check_rows([item.item.item_id for item in items], "items", "/item/item_id", wait_ms)
        bodies, embeddings = [_json(item) for item in metadata], [item.embedding for item in items]
        made = await ask_reader(
            self._router, lambda number: Prepare(number, bodies, embeddings), Prepared, self._reader_timeout_s
        )
        changes = [
            ItemChange(item["item_id"], item=item, embeddings={made.encoder: embedding})
            for item, embedding in zip(metadata, made.embeddings, strict=True)
        ]
        return await self._change(changes, [], wait_ms)

    async def remove(self, item_ids: Sequence[str], wait_ms: int | None) -> CatalogAnswer:
        self._check_rows(item_ids, "item_ids", "", wait_ms)
        unknown = await self._unknown(item_ids, [None] * len(item_ids))
        return await self._change([ItemChange(item_id, remove=True) for item_id in item_ids], unknown, wait_ms)

    def _check_rows(self, ids: Sequence[str], name: str, within: str, wait_ms: int | None) -> None:
        limit, longest_ms = self._settings.max_catalog_items, self._settings.max_timeout_ms
        wrong = list(_repeated(ids, name, within))
        if len(ids) > limit:
            wrong = [FieldError(pointer=f"/{name}", detail=f"has {len(ids)} items, at most {limit} are allowed")]
        if wait_ms is not None and wait_ms > longest_ms:
            wrong.append(FieldError(pointer="/wait_ms", detail=f"is {wait_ms}, it must be at most {longest_ms}"))
        if wrong:
            raise bad_request(wrong)

    async def _unknown(self, ids: Sequence[str], attributes: list[bytes | None]) -> list[str] | None:
        """Ids that the model that serves does not have; None where nobody can tell.

        Attributes are checked where a model serves, so a reader that restarts is told of (NotReady), and not passed by.
        """
        unchecked = self._router.route is None or not any(attributes)
        if self._router.reader is None and unchecked:
            return None
        checked = await ask_reader(
            self._router, lambda number: CheckPatch(number, list(ids), attributes), Checked, self._reader_timeout_s
        )
        return checked.unknown

    async def _change(
        self, changes: Sequence[ItemChange], unknown: list[str] | None, wait_ms: int | None
    ) -> CatalogAnswer:
        status = self._router.status
        holds = status.catalog_lost or status.catalog_era != ""
        made = await self._library.ask(lambda store: store.change_items(changes, holds=holds))
        unplaced: dict[str, str] = {}
        if wait_ms is not None:
            await self._applied(made, wait_ms)
            reasons = self._router.status.unplaced
            unplaced = {one.item_id: reasons[one.item_id] for one in changes if one.item_id in reasons}
        return CatalogAnswer(catalog_revision=made.revision, changed=made.changed, unknown=unknown, unplaced=unplaced)

    async def _applied(self, made: CatalogChanged, wait_ms: int) -> None:
        deadline, revision = time.monotonic() + wait_ms / 1000, made.revision
        while not self._obeys(made):
            if time.monotonic() >= deadline:
                raise NotFollowed(
                    f"the change is made, as catalog revision {revision}; "
                    f"this replica had not applied it after {wait_ms} ms",
                    [self._router.status.replica],
                )
            if self._router.status.draining:
                raise Draining(f"the change is made, as catalog revision {revision}; this replica goes away")
            await asyncio.sleep(_LOOK_EVERY_S)

    def _obeys(self, made: CatalogChanged) -> bool:
        """Revisions begin anew once Redis has lost the catalog, and the highest of the era before says nothing."""
        status = self._router.status
        return status.catalog_era == made.era and status.catalog_revision >= made.revision


def _repeated(ids: Sequence[str], name: str, within: str) -> Iterator[FieldError]:
    first: dict[str, int] = {}
    for place, item_id in enumerate(ids):
        if first.setdefault(item_id, place) != place:
            detail = f"is the same item as in row {first[item_id]}"
            yield FieldError(pointer=f"/{name}/{place}{within}", detail=detail)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
