"""What a replica served last, on its disk, for a start at which Redis is away: deployment and changed catalog.

Each namespace of each Redis has a folder of its own, so that a URL that is mistaken never serves another one's model.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from service.catalog.records import ItemRecord
from service.errors import ServiceError, SettingsError
from service.store import Connection, Deployment

FILE: Final = "last.json"
CATALOG_FILE: Final = "last-catalog.msgpack"
_LOCK: Final = "lock"
_PART_RECORDS: Final = 2000
_LENGTH_BYTES: Final = 4
_DIGEST_BYTES: Final = 16

logger = logging.getLogger(__name__)


class LastCatalog(msgspec.Struct, frozen=True):
    """The catalog as this replica had it, and the codes of added items, by version."""

    revision: int
    era: str
    records: list[ItemRecord]
    codes: dict[str, dict[str, tuple[int, ...]]] = {}


def last_folder(data_dir: Path, redis: Connection | None, namespace: str) -> Path:
    """Where it is kept what was served from a namespace of a Redis; None is the embedded one, wherever it listens."""
    return data_dir / "last" / blake2b(f"{redis or 'embedded'} {namespace}".encode(), digest_size=6).hexdigest()


@contextmanager
def only_replica(folder: Path, data_dir: Path) -> Iterator[None]:
    """Raises SettingsError where a replica that runs keeps what it serves in this folder: each would write over what
    the other has served, and clear away what it is fetching."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"a replica runs on the data folder {data_dir}: give this one its own PROREC_DATA_DIR"
            ) from None
        yield


def remembered(folder: Path) -> Deployment | None:
    """None where nothing was ever served from here, or what was written cannot be read."""
    body = _read(folder / FILE)
    try:
        return None if body is None else msgspec.json.decode(body, type=Deployment)
    except (msgspec.MsgspecError, ValueError) as error:
        logger.warning("what was served last cannot be read: %s", error)
        return None


def remembered_catalog(folder: Path) -> LastCatalog | None:
    """None where nothing was ever changed. Raises ServiceError where what was written cannot be read: something may be
    hidden, and nobody knows what."""
    path = folder / CATALOG_FILE
    try:
        parts = list(_parts(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ServiceError(f"what is hidden is not known here, as {path} cannot be read: {error}") from None
    return msgspec.structs.replace(parts[0], records=[record for part in parts for record in part.records])


def remember(folder: Path, deployment: Deployment) -> None:
    """A disk that is full costs only the memory."""
    _replace(folder / FILE, [msgspec.json.encode(deployment)])


def remember_catalog(folder: Path, catalog: LastCatalog) -> None:
    """A disk that is full costs only the memory."""
    _replace(folder / CATALOG_FILE, _pieces(catalog))


def _pieces(catalog: LastCatalog) -> Iterator[bytes]:
    """A length and a part of the records, again and again: one call of the encoder for all would stop every thread.
    At the end a checksum: one bit makes a hidden item available."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for first in range(0, max(1, len(catalog.records)), _PART_RECORDS):
        records = catalog.records[first : first + _PART_RECORDS]
        part = msgspec.structs.replace(catalog, records=records, codes={} if first else catalog.codes)
        body = msgspec.msgpack.encode(part)
        for piece in (len(body).to_bytes(_LENGTH_BYTES, "little"), body):
            digest.update(piece)
            yield piece
    yield digest.digest()


def _parts(body: bytes) -> Iterator[LastCatalog]:
    """What `_pieces` wrote; for anything else raises ValueError or MsgspecError."""
    at, whole = 0, memoryview(body)[:-_DIGEST_BYTES]
    if blake2b(whole, digest_size=_DIGEST_BYTES).digest() != body[-_DIGEST_BYTES:]:
        raise ValueError("its checksum differs")
    while at < len(whole):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(whole[at:start], "little")
        yield msgspec.msgpack.decode(whole[start:at], type=LastCatalog)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("what was served last cannot be read: %s", error)
        return None


def _replace(target: Path, pieces: Iterable[bytes]) -> None:
    """In one step."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            stream.writelines(pieces)
        aside.replace(target)
    except OSError as error:
        logger.warning("what is served cannot be written to %s: %s", target, error)
        with suppress(OSError):
            aside.unlink(missing_ok=True)
