"""What a replica served last, on its disk, for a start at which Redis is away: deployment and changed catalog."""

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from service.catalog.records import ItemRecord
from service.store import Deployment

FILE: Final = "last.json"
CATALOG_FILE: Final = "last-catalog.msgpack"

logger = logging.getLogger(__name__)


class LastCatalog(msgspec.Struct, frozen=True):
    """The catalog as this replica had it, and the codes of added items, by version."""

    revision: int
    era: str
    records: list[ItemRecord]
    codes: dict[str, dict[str, tuple[int, ...]]] = {}


def remembered(data_dir: Path) -> Deployment | None:
    """None where nothing was ever served from here, or what was written cannot be read."""
    body = _read(data_dir / FILE)
    try:
        return None if body is None else msgspec.json.decode(body, type=Deployment)
    except msgspec.MsgspecError as error:
        logger.warning("what was served last cannot be read: %s", error)
        return None


def remembered_catalog(data_dir: Path) -> LastCatalog | None:
    """None where there was none, or what was written cannot be read."""
    body = _read(data_dir / CATALOG_FILE)
    try:
        return None if body is None else msgspec.msgpack.decode(body, type=LastCatalog)
    except msgspec.MsgspecError as error:
        logger.warning("the catalog as it was last cannot be read: %s", error)
        return None


def remember(data_dir: Path, deployment: Deployment) -> None:
    """A disk that is full costs only the memory."""
    _replace(data_dir / FILE, msgspec.json.encode(deployment))


def remember_catalog(data_dir: Path, catalog: LastCatalog) -> None:
    """A disk that is full costs only the memory."""
    _replace(data_dir / CATALOG_FILE, msgspec.msgpack.encode(catalog))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("what was served last cannot be read: %s", error)
        return None


def _replace(target: Path, body: bytes) -> None:
    """In one step."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        aside.write_bytes(body)
        aside.replace(target)
    except OSError as error:
        logger.warning("what is served cannot be written to %s: %s", target, error)
