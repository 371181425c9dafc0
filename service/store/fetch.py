"""Chunks in Redis → an artifact in the cache folder, every byte checked on the way.

What a broken fetch has written stays in a folder aside. The next attempt checks it, and fetches the rest.
"""

import fcntl
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

from models.artifact import MANIFEST, Artifact
from models.errors import ArtifactError

from ..errors import StoreCorrupt, StoreError, UnknownVersion
from .batches import batches
from .connection import Connection
from .keys import Keys
from .records import Record, check_known, manifest_digest, megabytes, read_record

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
        aside.mkdir(exist_ok=True)
        try:
            self._download(record, aside)
            _put(aside, target, old)
        except (OSError, UnknownVersion):  # the disk may be full; nobody goes on with what was deleted
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _checked_files[target] = _signature(target)
        return Artifact.open(target, verify=False)

    def _download(self, record: Record, folder: Path) -> None:
        try:
            self._write(record, folder)
        except StoreCorrupt:
            newer = self.record(record.version)  # UnknownVersion: it was deleted meanwhile
            if newer.upload == record.upload:
                raise
            self._write(newer, folder)  # it was published anew meanwhile

    def _write(self, record: Record, folder: Path) -> None:
        """Writes files and manifest, of each file what is not there yet."""
        _remove_others(folder, record.manifest.files)
        _check_room(record, folder)
        for name in record.manifest.files:
            self._write_file(record, name, folder / name)
        (folder / MANIFEST).write_bytes(record.manifest_text.encode())

    def _write_file(self, record: Record, name: str, path: Path) -> None:
        """Goes on after the last chunk that is right; the whole file's checksum also catches a wrong list of chunks."""
        whole, chunks, size = sha256(), 0, 0
        with path.open("a+b") as stream:
            for data in _right_chunks(stream, record, name):
                whole.update(data)
                chunks, size = chunks + 1, size + len(data)
            stream.truncate(size)
            for data in read_chunks(self.redis, self.keys, record, name, chunks):
                whole.update(data)
                stream.write(data)
        if whole.hexdigest() != record.manifest.files[name].sha256:
            raise StoreCorrupt(f"{name} of version {record.version} differs from its manifest; publish it again")


def remove_remains(cache: Path, wanted: Collection[str] = ()) -> None:
    """Removes what broken and killed fetches have left, unless a fetch of that version is under way.

    Of versions still `wanted`, what the next attempt goes on with stays.
    """
    for path in cache.glob(".*.lock"):
        version = path.name[1 : -len(".lock")]
        aside, old = _asides(cache, version)
        remains = [folder for folder in ([old] if version in wanted else [aside, old]) if folder.exists()]
        if not remains:
            continue
        with path.open("ab") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in remains:
                shutil.rmtree(folder, ignore_errors=True)


def read_chunks(redis: Connection, keys: Keys, record: Record, name: str, first: int = 0) -> Iterator[bytes]:
    """The chunks of a file from number `first` on, in order and checked, a batch in one round trip.

    Raises StoreCorrupt for a chunk that is missing or differs from its checksum.
    """
    digests = record.chunk_sha256[name]
    for numbers in batches(range(first, len(digests)), max(1, _BATCH_BYTES // record.chunk_bytes)):
        found = _get_all(redis, [keys.chunk(record.version, record.upload, name, number) for number in numbers])
        for number, data in zip(numbers, found, strict=True):
            yield _checked(data, digests[number], f"chunk {number} of {name} of version {record.version}")


def _get_all(redis: Connection, names: list[str]) -> list[bytes | None]:
    return list(redis.ask(lambda client: client.mget(names)))


def _checked(data: bytes | None, digest: str, what: str) -> bytes:
    if data is None:
        raise StoreCorrupt(f"{what} is missing in Redis; publish it again")
    if sha256(data).hexdigest() != digest:
        raise StoreCorrupt(f"{what} differs from its checksum; publish it again")
    return data


def _right_chunks(stream: IO[bytes], record: Record, name: str) -> Iterator[bytes]:
    """What an earlier attempt has written of a file, as far as it is right."""
    stream.seek(0)
    for digest in record.chunk_sha256[name]:
        data = stream.read(record.chunk_bytes)
        if sha256(data).hexdigest() != digest:
            return
        yield data


def _remove_others(folder: Path, names: Collection[str]) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in names:
            path.unlink()


def _check_room(record: Record, folder: Path) -> None:
    """Raises StoreError where the disk has less left than is still to be written.

    A file system that does not know its size, as some in user space, is not asked.
    """
    there = {path.name: path.stat().st_size for path in folder.iterdir()}
    needed = sum(max(0, entry.bytes - there.get(name, 0)) for name, entry in record.manifest.files.items())
    disk = shutil.disk_usage(folder)
    if disk.total and needed > disk.free:
        raise StoreError(
            f"version {record.version} needs {megabytes(needed)} on the disk of {folder.parent},"
            f" where {megabytes(disk.free)} are free"
        )


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
