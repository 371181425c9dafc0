"""Chunks in Redis → an artifact in the cache folder, every byte checked on the way."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

from models.artifact import MANIFEST, Artifact
from models.errors import ArtifactError

from ..errors import StoreCorrupt, StoreError, UnknownVersion
from .connection import Connection
from .keys import Keys
from .records import Record, check_known, manifest_digest, read_record

_BATCH_BYTES: Final = 16 * 1024 * 1024

Signature = tuple[tuple[str, int, int, int], ...]
_checked_files: Final[dict[Path, Signature]] = {}  # folder of a cached version → its files when they were checked


@dataclass(frozen=True)
class Fetcher:
    """Fetches published versions of one namespace."""

    redis: Connection
    keys: Keys

    def record(self, version: str) -> Record:
        """Raises UnknownVersion, StoreCorrupt."""
        check_known(version)

        def both(client: Any) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            pipe.hexists(self.keys.versions, version)
            pipe.get(self.keys.manifest(version))
            return list(pipe.execute())

        known, raw = self.redis.ask(both)
        if not known:
            raise UnknownVersion(f"no version named {version!r} is published")
        if raw is None:
            raise StoreCorrupt(f"the record of version {version} is missing in Redis; publish it again")
        return read_record(raw, version)

    def fetch(self, version: str, cache: Path) -> Artifact:
        """Errors as in `Store.fetch`."""
        record = self.record(version)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone(cache / f".{version}.lock"):
                return self._fetch(record, cache)
        except OSError as error:
            raise StoreError(f"cannot write version {version} to {cache}: {error.strerror or error}") from None

    def _fetch(self, record: Record, cache: Path) -> Artifact:
        target = cache / record.version
        cached = _cached(target, record)
        if cached is not None:
            return cached
        aside, old = _asides(cache, record.version)
        shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
        aside.mkdir()
        try:
            self._download(record, aside)
            _put(aside, target, old)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _checked_files[target] = _signature(target)
        return Artifact.open(target, verify=False)

    def _download(self, record: Record, folder: Path) -> None:
        try:
            _write(read_chunks(self.redis, self.keys, record), record, folder)
        except StoreCorrupt:
            newer = self.record(record.version)  # UnknownVersion: it was deleted meanwhile
            if newer.upload == record.upload:
                raise
            _write(read_chunks(self.redis, self.keys, newer), newer, folder)  # it was published anew meanwhile


def remove_remains(cache: Path) -> None:
    """Removes what killed fetches have left, whatever their version, unless a fetch of it is under way."""
    for path in cache.glob(".*.lock"):
        remains = [folder for folder in _asides(cache, path.name[1 : -len(".lock")]) if folder.exists()]
        if not remains:
            continue
        with path.open("ab") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in remains:
                shutil.rmtree(folder, ignore_errors=True)


def read_chunks(redis: Connection, keys: Keys, record: Record) -> Iterator[tuple[str, bytes]]:
    """(file, bytes) of every chunk of a version, in order and checked, a batch at a time.

    Raises StoreCorrupt for a chunk that is missing or differs from its checksum.
    """
    batch = max(1, _BATCH_BYTES // record.chunk_bytes)
    for name, digests in record.chunk_sha256.items():
        for first in range(0, len(digests), batch):
            numbers = range(first, min(first + batch, len(digests)))
            found = _get_all(redis, [keys.chunk(record.version, record.upload, name, number) for number in numbers])
            for number, data in zip(numbers, found, strict=True):
                yield name, _checked(data, digests[number], f"chunk {number} of {name} of version {record.version}")


def _get_all(redis: Connection, names: list[str]) -> list[bytes | None]:
    return list(redis.ask(lambda client: client.mget(names)))


def _checked(data: bytes | None, digest: str, what: str) -> bytes:
    if data is None:
        raise StoreCorrupt(f"{what} is missing in Redis; publish it again")
    if sha256(data).hexdigest() != digest:
        raise StoreCorrupt(f"{what} differs from its checksum; publish it again")
    return data


def _write(chunks: Iterator[tuple[str, bytes]], record: Record, folder: Path) -> None:
    """Writes files and manifest; the whole-file checksums also catch a record whose own chunk list is wrong."""
    whole = {name: sha256() for name in record.manifest.files}
    for name in record.manifest.files:
        (folder / name).write_bytes(b"")
    for name, data in chunks:
        whole[name].update(data)
        with (folder / name).open("ab") as stream:
            stream.write(data)
    for name, entry in record.manifest.files.items():
        if whole[name].hexdigest() != entry.sha256:
            raise StoreCorrupt(f"{name} of version {record.version} differs from its manifest; publish it again")
    (folder / MANIFEST).write_bytes(record.manifest_text.encode())


def _cached(target: Path, record: Record) -> Artifact | None:
    """What an earlier fetch left, if it is this version and still whole.

    Bytes this process has checked before are not read again while nobody has touched the files: hashing a model takes
    the processor from engines that serve.
    """
    try:
        if manifest_digest((target / MANIFEST).read_bytes()) != record.digest:
            return None
        seen = _signature(target)
        artifact = Artifact.open(target, verify=_checked_files.get(target) != seen)
    except (OSError, ArtifactError):
        return None
    _checked_files[target] = seen
    return artifact


def _signature(folder: Path) -> Signature:
    """Changes with every file that is written, replaced, added or taken away."""
    files = ((path.name, path.stat()) for path in sorted(folder.iterdir()))
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in files)


def _asides(cache: Path, version: str) -> tuple[Path, Path]:
    """Where a version is while it is fetched, and its earlier files while they are replaced."""
    return cache / f".{version}.fetching", cache / f".{version}.old"


def _put(folder: Path, target: Path, old: Path) -> None:
    """Moves `folder` to `target`. Processes that have files of a replaced one open or mapped keep them."""
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[IO[bytes]]:
    """Keeps other processes that fetch the same version waiting; the kernel frees it when the holder dies."""
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
