"""Writing a dataset folder: all of it or nothing, and the same bytes for the same source."""

import csv
import gzip
import io
import json
import logging
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.whole_files import put_on_disk

from ..errors import ConfigError, DatasetTooSmall
from ..interactions import EVENT_COLUMNS, INTERACTIONS_NAME, ITEMS_NAME
from .core_filter import CoreEvents
from .rows import Record

logger = logging.getLogger(__name__)

_DATASET_FILES = {name + suffix for name in (INTERACTIONS_NAME, ITEMS_NAME) for suffix in ("", ".gz")}


@dataclass(frozen=True)
class ImportCounts:
    """What an import wrote.

    dropped  events of the source that are not in the dataset: repeats, and those outside the core
    """

    users: int
    items: int
    interactions: int
    dropped: int

    def __str__(self) -> str:
        left_out = f" ({self.dropped:,} events left out)" if self.dropped else ""
        return f"{self.users:,} users, {self.items:,} items, {self.interactions:,} events{left_out}"


def refuse_unusable(out: Path, *, force: bool) -> None:
    """Raises ConfigError when `out` cannot become a dataset folder; to be asked before the long work starts."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is not a folder.")
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if names and not force:
        raise ConfigError(f"The folder {out} is not empty; name another one, or force its replacement.")
    foreign = [name for name in names if name not in _DATASET_FILES]
    if foreign:
        raise ConfigError(f"The folder {out} holds {foreign[0]}, which is no part of a dataset, and is not replaced.")


def write_dataset(out: Path, events: CoreEvents, records: Iterable[Record], *, force: bool = False) -> ImportCounts:
    """Writes events and the metadata of their items; of two records of one item the first counts.

    Raises DatasetTooSmall when there is no event, ConfigError when `out` is in the way.
    """
    if not len(events.user):
        raise DatasetTooSmall(f"No event is left: all {events.dropped} of the source fall outside the core.")
    refuse_unusable(out, force=force)
    with _replacing(out.resolve(), force=force) as folder:
        _write_interactions(folder / f"{INTERACTIONS_NAME}.gz", events)
        item_count = _write_items(folder / f"{ITEMS_NAME}.gz", events.kept_item_ids(), records)
    if events.repeats:
        logger.info("%s: %d repeats of a user and item pair were dropped", out, events.repeats)
    user_count = len(np.unique(events.user))
    return ImportCounts(user_count, item_count, len(events.user), events.dropped)


def _write_interactions(path: Path, events: CoreEvents) -> None:
    rows = zip(events.user.tolist(), events.item.tolist(), events.time_us.tolist(), strict=True)
    with _gzip_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(EVENT_COLUMNS)
        writer.writerows((events.user_ids[u], events.item_ids[i], _seconds(time_us)) for u, i, time_us in rows)


def _write_items(path: Path, kept_ids: list[str], records: Iterable[Record]) -> int:
    missing = dict.fromkeys(kept_ids)
    with _gzip_text(path) as file:
        for record in records:
            if record["item_id"] in missing:
                del missing[record["item_id"]]
                file.write(json.dumps(record, allow_nan=False) + "\n")
        file.writelines(json.dumps({"item_id": item_id}) + "\n" for item_id in missing)
    if missing:
        logger.warning("%d of %d items have no metadata in the source", len(missing), len(kept_ids))
    return len(kept_ids)


def _seconds(time_us: int) -> str:
    seconds, fraction = divmod(abs(time_us), 1_000_000)
    sign = "-" if time_us < 0 else ""
    return f"{sign}{seconds}.{fraction:06d}" if fraction else f"{sign}{seconds}"


@contextmanager
def _gzip_text(path: Path) -> Iterator[io.TextIOWrapper]:
    # Neither name nor time goes into the header, or equal contents would differ in bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        yield text


@contextmanager
def _replacing(out: Path, *, force: bool) -> Iterator[Path]:
    """A fresh folder beside `out` that takes its place when all went well and is on the disk."""
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    fresh, former = (out.with_name(f".{out.name}.{kind}-{mark}") for kind in ("new", "old"))
    fresh.mkdir()
    try:
        yield fresh
        put_on_disk(fresh)  # before the former one is moved away: in between there is none
        if force and out.exists():
            out.rename(former)
        fresh.replace(out)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
