"""What differs from the trained catalogs: one record an item, every change all or nothing."""

import itertools
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import msgspec

from ..catalog.records import ItemChange, ItemRecord
from ..errors import BadItem, CatalogLost, FieldError, StoreCorrupt, StoreError
from .batches import batches
from .catalog_script import CHANGE, RESTORE, SINCE
from .connection import Connection
from .keys import Keys
from .replicas import Replicas

LARGEST_PART: Final = 10_000  # items told as what changed; above it everything is read again
_BATCH: Final = 1000  # items in one command
_ATTEMPTS: Final = 100
_PAUSE_S: Final = 0.02
_STAGED: Final = 100  # items in one command of a catalog that is put back; each may be a megabyte
_STAGED_S: Final = 3600  # for how long a catalog that was half put back takes room
_PAGE_BYTES: Final = 16 << 20  # of records in one page
_MOST_RECORD_BYTES: Final = 1 << 20  # of one item: every replica and engine holds it, and gets it in one message

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ItemRecord)


@dataclass(frozen=True)
class CatalogChanged:
    """What a change of the catalog came to."""

    revision: int  # of the catalog from then on; where nothing changed, one at which it was so already
    changed: int  # items that are different from before
    era: str  # of the revision


@dataclass(frozen=True)
class CatalogSighting:
    """What has changed since a revision, at most one record an item, in order of revision."""

    revision: int  # everything up to it is in `records`, or was known before
    records: list[ItemRecord] = field(repr=False)
    whole: bool = False  # `records` is all there is, and replaces all that was known
    era: str = ""  # another one: Redis lost the catalog in between, and its revisions began again


@dataclass(frozen=True)
class CatalogPage:
    """Items in the order of their last changes: all of every revision that it holds some of."""

    revision: int  # of the catalog
    era: str
    records: list[ItemRecord] = field(repr=False)
    then: int | None  # revision to go on after; None: these are the last


@dataclass(frozen=True)
class CatalogRecords:
    """Reads and changes the records of one namespace."""

    redis: Connection
    keys: Keys

    def state(self) -> tuple[int, str]:
        """Revision (0: nothing was ever changed) and era."""
        found = self.redis.ask(lambda client: client.hmget(self.keys.catalog, "revision", "era"))
        return _number(found[0] or b"0"), (found[1] or b"").decode()

    def records(self, item_ids: Iterable[str]) -> dict[str, ItemRecord]:
        """Of those that have one. Raises StoreCorrupt."""
        ids = list(dict.fromkeys(item_ids))
        return {item_id: record for item_id, record in zip(ids, self._held(ids), strict=True) if record is not None}

    def change(self, changes: Sequence[ItemChange], *, holds: bool) -> CatalogChanged:
        """Errors as in `Store.change_items`."""
        ids = list(dict.fromkeys(change.item_id for change in changes))
        token = uuid4().hex
        for attempt in range(_ATTEMPTS):
            revision, era = self.state()
            if revision == 0 and (holds or self._obeyed()):
                raise CatalogLost(
                    "Redis has lost the changes of the catalog, and the next one would end those before: "
                    "put them back (python -m service restore), or do without them (… restore --forget-changes)"
                )
            before = dict(zip(ids, self._held(ids), strict=True))
            after = _merged(before, changes)
            changed = [item_id for item_id in ids if after[item_id] != (before[item_id] or ItemRecord(item_id, 0))]
            if not changed:  # but another one may have changed them, since the revision was read, to what is wanted
                obeying = max([revision, *(record.revision for record in after.values())])
                return CatalogChanged(obeying, 0, era)
            made = self._write(token, revision, era, before, [after[item_id] for item_id in changed])
            if made is not None:
                return CatalogChanged(made[0], len(changed), era=made[1])
            time.sleep(random.uniform(0, _PAUSE_S * min(attempt + 1, 10)))
        raise StoreError("others keep changing these items; try again later")

    def restore(self, records: Sequence[ItemRecord], revision: int) -> bool:
        """Errors as in `Store.restore_catalog`."""
        token = uuid4().hex
        keys = [self.keys.catalog, self.keys.items, self.keys.changed]
        staged = [self.keys.staged(token, key) for key in keys[1:]]
        values = [self.keys.catalog_changes, revision, uuid4().hex, len(records)]
        try:
            for some in batches(records, _STAGED):
                self._stage(some, *staged)
            (word, *_) = self.redis.ask(lambda client: client.eval(RESTORE, 5, *keys, *staged, *values))
        finally:
            with suppress(StoreError):
                self.redis.ask(lambda client: client.unlink(*staged))
        if word == b"late":
            raise StoreError("of the catalog that was sent Redis lost a part before all was there; restore again")
        return bool(word == b"ok")

    def _obeyed(self) -> bool:
        """Whether a replica that lives obeys changes, wherever they are."""
        return any(report.catalog_revision > 0 for report in Replicas(self.redis, self.keys).live())

    def _stage(self, records: Sequence[ItemRecord], items: str, changed: str) -> None:
        def stage(client: Any) -> None:
            pipe = client.pipeline(transaction=False)
            pipe.hset(items, mapping={one.item_id: b"%d %b" % (one.revision, _body(one)) for one in records})
            pipe.zadd(changed, {one.item_id: one.revision for one in records})
            pipe.expire(items, _STAGED_S)
            pipe.expire(changed, _STAGED_S)
            pipe.execute()

        self.redis.ask(stage)

    def since(self, revision: int, era: str | None) -> CatalogSighting:
        """Errors as in `Store.catalog_changes`."""
        keys = [self.keys.catalog, self.keys.items, self.keys.changed]
        values = [revision, "*" if era is None else era, LARGEST_PART]
        word, now, era_now, *found = self.redis.ask(lambda client: client.eval(SINCE, len(keys), *keys, *values))
        if word == b"whole":
            return CatalogSighting(_number(now), self._all(), whole=True, era=era_now.decode())
        return CatalogSighting(_number(now), _in_order(map(_record, found)), era=era_now.decode())

    def page(self, since: int, limit: int) -> CatalogPage:
        """Errors as in `Store.catalog_page`."""
        revision, era = self.state()
        scored = self._changed(f"({since}", "+inf", start=0, num=limit)
        then = None
        if len(scored) == limit:
            then = int(scored[-1][1])
            scored = [one for one in scored if one[1] < then] + self._changed(then, then)
        told = self._fitting(scored)
        if len(told) < len(scored):
            then = int(told[-1][1])
        held = self._held([name.decode(errors="surrogatepass") for name, _ in told])
        return CatalogPage(revision, era, _in_order(record for record in held if record is not None), then)

    def _fitting(self, scored: Sequence[tuple[bytes, float]]) -> list[tuple[bytes, float]]:
        """The first of them, of whole revisions, whose records are not many megabytes; one revision at least."""

        def measure(client: Any) -> list[int]:
            pipe = client.pipeline(transaction=False)
            for name, _ in scored:
                pipe.hstrlen(self.keys.items, name)
            return list(pipe.execute())

        ends = itertools.accumulate(self.redis.ask(measure) if scored else [])
        large = next((revision for (_, revision), end in zip(scored, ends, strict=True) if end > _PAGE_BYTES), None)
        if large is None:
            return list(scored)
        first = scored[0][1]
        return [one for one in scored if one[1] < large or one[1] == first]

    def _changed(self, least: str | int, most: str | int, **part: int) -> list[tuple[bytes, float]]:
        """(item id, revision of its last change), in that order."""
        found: list[tuple[bytes, float]] = self.redis.ask(
            lambda client: client.zrangebyscore(self.keys.changed, least, most, withscores=True, **part)
        )
        return found

    def _all(self) -> list[ItemRecord]:
        """Every record. Those changed meanwhile may be newer than the revision read before; they are told again."""

        def scan(client: Any) -> dict[bytes, bytes]:
            return dict(client.hscan_iter(self.keys.items, count=_BATCH))

        return _in_order(map(_record, self.redis.ask(scan).values()))

    def _held(self, ids: Sequence[str]) -> list[ItemRecord | None]:
        names = [item_id.encode(errors="surrogatepass") for item_id in ids]  # what cannot exist is not found

        def read(client: Any) -> list[list[bytes | None]]:
            pipe = client.pipeline(transaction=False)
            for some in batches(names, _BATCH):
                pipe.hmget(self.keys.items, some)
            return list(pipe.execute())

        return (
            [None if value is None else _record(value) for some in self.redis.ask(read) for value in some]
            if ids
            else []
        )

    def _write(
        self, token: str, revision: int, era: str, before: dict[str, ItemRecord | None], after: list[ItemRecord]
    ) -> tuple[int, str] | None:
        """(revision made, its era), or None where one of these items has changed since it was read."""
        values: list[str | bytes | int] = [self.keys.catalog_changes, token, revision, era, uuid4().hex]
        for record in after:
            known = before[record.item_id]
            values += [record.item_id, known.revision if known else "", _body(record)]
        keys = [self.keys.catalog, self.keys.items, self.keys.changed]
        word, made, *era_now = self.redis.ask(lambda client: client.eval(CHANGE, len(keys), *keys, *values))
        return (_number(made), era_now[0].decode()) if word == b"ok" else None


def merge(record: ItemRecord | None, change: ItemChange) -> ItemRecord:
    """The record after a change; its revision stays what it was.

    `item` adds the item anew: what was known of it is gone, and only then the rest of the change counts. An attribute
    set to None stays in the record, so that it hides the item's own. Of a removed item nothing else is kept.
    """
    now = record or ItemRecord(change.item_id, 0)
    if change.reset:
        now = msgspec.structs.replace(now, available=True, attributes={})
    if change.remove:
        now = msgspec.structs.replace(now, removed=True)
    if change.item is not None:
        now = ItemRecord(change.item_id, now.revision, item=change.item)
    if now.removed:
        return ItemRecord(change.item_id, now.revision, removed=True)
    return msgspec.structs.replace(
        now,
        available=now.available if change.available is None else change.available,
        attributes=now.attributes | (change.attributes or {}),
        embeddings=now.embeddings | change.embeddings,
    )


def _merged(before: dict[str, ItemRecord | None], changes: Sequence[ItemChange]) -> dict[str, ItemRecord]:
    """Of every item; several changes of one count in their order."""
    after = dict(before)
    for change in changes:
        after[change.item_id] = merge(after[change.item_id], change)
    return {item_id: record for item_id, record in after.items() if record is not None}


def _body(record: ItemRecord) -> bytes:
    """Raises BadItem for values that MessagePack cannot hold, such as an integer of more than 64 bits, and for more
    than is kept of one item."""
    try:
        body = _encoder.encode(msgspec.structs.replace(record, revision=0))
        if len(body) > _MOST_RECORD_BYTES:
            raise ValueError(f"{len(body)} bytes in all, and {_MOST_RECORD_BYTES} are the most")
        return body
    except (TypeError, ValueError, OverflowError) as error:
        detail = f"item {record.item_id!a} holds a value that cannot be kept: {error}"
        raise BadItem(detail, [FieldError(pointer="", detail=detail)]) from None


def _record(value: bytes) -> ItemRecord:
    revision, _, body = value.partition(b" ")
    try:
        return msgspec.structs.replace(_decoder.decode(body), revision=int(revision))
    except (msgspec.MsgspecError, ValueError):
        raise StoreCorrupt("what Redis holds about an item of the catalog is damaged") from None


def _in_order(records: Iterable[ItemRecord]) -> list[ItemRecord]:
    return sorted(records, key=lambda record: (record.revision, record.item_id))


def _number(value: bytes) -> int:
    try:
        return int(value)
    except ValueError:
        raise StoreCorrupt("the revision of the catalog in Redis is damaged") from None
