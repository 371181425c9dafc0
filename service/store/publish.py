"""An artifact on disk → chunks in Redis, and then its record in one step; and the removal of either.

Every upload writes keys of its own. While it lives it renews a lease; an upload without one was killed, and its
remains go with the next publish. Memory stays flat: one batch of chunks at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from models.artifact import Artifact, FileEntry, Manifest

from ..errors import (
    BadArtifact,
    EvictionPolicy,
    StoreCorrupt,
    StoreError,
    StoreReadOnly,
    UnknownVersion,
    VersionActive,
    VersionExists,
    VersionPinned,
)
from .batches import batches
from .connection import Connection
from .deployment import KEPT_EVENTS
from .fetch import read_chunks
from .keys import Keys
from .records import (
    CHUNK_BYTES,
    Published,
    Record,
    begin,
    check_known,
    check_names,
    manifest_digest,
    megabytes,
    parse_manifest_text,
    read_manifest_text,
    read_published,
    read_record,
)

BATCH_CHUNKS: Final = 4  # in one round trip: 16 MiB hide the way to a distant Redis
LEASE_S: Final = 120  # a batch takes less, or the upload counts as killed
CODES_KEPT_S: Final = 86_400  # after a deletion: replicas know them still, and the same bytes may come back
_UNLINK_KEYS: Final = 256

Progress = Callable[[int, int], None]

# Answers: ok, exists (other bytes under that name), deleted (they had it once) or late (no lease: counted as killed). A
# call repeated after its answer was lost finds its own upload and says ok. What a commit replaces is left in `uploads`,
# to be removed.
_COMMIT = """
local versions, manifest, uploads, lease, deleted, codes, coded = unpack(KEYS)
local version, digest, upload, published, record = unpack(ARGV)
local known = redis.call('HGET', versions, version)
local old = known and cjson.decode(known)
if old and old.upload == upload then return 'ok' end
if redis.call('EXISTS', lease) == 0 then return 'late' end
if old and old.digest ~= digest then return 'exists' end
if (redis.call('HGET', deleted, version) or digest) ~= digest then return 'deleted' end
if old then redis.call('HSET', uploads, old.upload, known) end
redis.call('HSET', versions, version, published)
redis.call('SET', manifest, record)
redis.call('HDEL', uploads, upload)
redis.call('DEL', lease)
redis.call('PERSIST', codes)
redis.call('PERSIST', coded)
return 'ok'
"""

# Answers: ok, active, unknown, or which role of the deployment holds the version. The chunks go afterwards; until then
# `uploads` knows of them. A version that was a way back changes the deployment, so its epoch grows. Which bytes had the
# name is kept for good, and their codes for a while.
_DELETE = """
local versions, manifest, uploads, active, events, deleted, codes, coded = unpack(KEYS)
local version, channel, capped, kept_s = unpack(ARGV)
local serving, canary, shadow, pinned, previous =
  unpack(redis.call('HMGET', active, 'version', 'canary', 'shadow', 'pinned', 'previous'))
if serving == version then return 'active' end
if canary == version then return 'the canary' end
if shadow == version then return 'the shadow' end
for name in string.gmatch(pinned or '', '[^,]+') do
  if name == version then return 'loaded for an operator' end
end
local known = redis.call('HGET', versions, version)
if not known then return 'unknown' end
redis.call('HDEL', versions, version)  -- first: a full Redis refuses a script whose first change needs memory
local published = cjson.decode(known)
redis.call('HSET', uploads, published.upload, known)
redis.call('HSET', deleted, version, published.digest)
redis.call('DEL', manifest)
redis.call('EXPIRE', codes, kept_s)
redis.call('EXPIRE', coded, kept_s)
local kept = {}
for name in string.gmatch(previous or '', '[^,]+') do
  if name ~= version then kept[#kept + 1] = name end
end
local left = table.concat(kept, ',')
if left == (previous or '') then return 'ok' end
local time = redis.call('TIME')
local epoch = string.format('%d', redis.call('HINCRBY', active, 'epoch', 1))
redis.call('HSET', active, 'previous', left, 'reason', 'delete ' .. version,
  'at', string.format('%d.%06d', tonumber(time[1]), tonumber(time[2])))
redis.call('XADD', events, 'MAXLEN', '~', capped, '*', 'reason', 'delete ' .. version, 'version', serving,
  'from', serving, 'epoch', epoch, 'pinned', pinned or '', 'canary', canary or '',
  'percent', redis.call('HGET', active, 'percent') or '', 'shadow', shadow or '')
redis.call('PUBLISH', channel, serving .. ' ' .. epoch)
return 'ok'
"""


@dataclass(frozen=True)
class Chunk:
    file: str
    number: int
    data: bytes


@dataclass(frozen=True)
class Publisher:
    """Publishes into and deletes from one namespace."""

    redis: Connection
    keys: Keys

    def publish(self, artifact: Artifact, progress: Progress | None = None) -> int:
        """Bytes of the published files; errors as in `Store.publish`."""
        text = read_manifest_text(artifact.folder)
        try:
            manifest = parse_manifest_text(text, str(artifact.folder))
        except StoreCorrupt as error:
            raise BadArtifact(str(error)) from None
        check_names(manifest)
        published = begin(manifest, manifest_digest(text.encode()))
        self._refuse_eviction()
        self._remove_remains()
        if not self._is_whole(published):
            self._check_room(manifest)
            self._upload(artifact.folder, published, text, progress or _silent)
        return published.bytes

    def delete(self, version: str) -> None:
        """Errors as in `Store.delete`. Asked again, it finishes what broke off, or succeeded without its answer."""
        check_known(version)
        keys = [self.keys.versions, self.keys.manifest(version), self.keys.uploads, self.keys.active, self.keys.events]
        keys += [self.keys.deleted, self.keys.codes(version), self.keys.coded(version)]
        values = [version, self.keys.changes, KEPT_EVENTS, CODES_KEPT_S]
        said = self.redis.ask(lambda client: client.eval(_DELETE, len(keys), *keys, *values)).decode()
        if said == "active":
            raise VersionActive(f"version {version} is active; activate another one before deleting it")
        if said not in ("ok", "unknown"):
            raise VersionPinned(f"version {version} is {said}; end that before deleting it")
        removed = self._remove_remains()
        if said == "unknown" and version not in removed:
            raise UnknownVersion(f"no version named {version!r} is published")

    def _refuse_eviction(self) -> None:
        memory = self.redis.ask_node_of(self.keys.versions, "memory")  # INFO, as managed servers forbid CONFIG
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction" and not policy.startswith("volatile-"):
            raise EvictionPolicy(
                f"Redis at {self.redis} has maxmemory-policy {policy} and could drop a published model;"
                " set noeviction or a volatile-* policy"
            )

    def _check_room(self, manifest: Manifest) -> None:
        """Raises StoreReadOnly where the version cannot fit into what `maxmemory` leaves."""
        memory = self.redis.ask_node_of(self.keys.versions, "memory")
        limit = int(memory.get("maxmemory", 0))  # 0: there is none
        used = int(memory.get("used_memory", 0)) - int(memory.get("mem_not_counted_for_evict", 0))
        needed = _memory_bytes(manifest, str(memory.get("mem_allocator", "")))
        if limit and used + needed > limit:
            raise StoreReadOnly(
                f"version {manifest.model_version} needs {megabytes(needed)} of memory in Redis at {self.redis},"
                f" where {megabytes(max(0, limit - used))} of maxmemory are left"
            )

    def _is_whole(self, wanted: Published) -> bool:
        """True where the same bytes are published already and every one of them is still right."""
        known = self.redis.ask(lambda client: client.hget(self.keys.versions, wanted.version))
        if known is None:
            self._refuse_others_name(wanted)
            return False
        if read_published(known).digest != wanted.digest:
            raise _exists(wanted.version)
        raw = self.redis.ask(lambda client: client.get(self.keys.manifest(wanted.version)))
        try:
            record = read_record(raw or b"", wanted.version)
            for name in record.chunk_sha256:
                for _ in read_chunks(self.redis, self.keys, record, name):
                    pass
        except (StoreCorrupt, BadArtifact):
            return False  # publishing again is how damage is repaired
        return record.digest == wanted.digest

    def _refuse_others_name(self, wanted: Published) -> None:
        """Raises VersionExists where other bytes had the name before they were deleted."""
        before = self.redis.ask(lambda client: client.hget(self.keys.deleted, wanted.version))
        if before is not None and before.decode() != wanted.digest:
            raise _had_other_bytes(wanted.version)

    def _upload(self, folder: Path, published: Published, text: str, progress: Progress) -> None:
        self._announce(published)
        try:
            digests = self._send(folder, published, text, progress)
            self._commit(
                published,
                Record(
                    version=published.version,
                    upload=published.upload,
                    manifest_text=text,
                    chunk_bytes=CHUNK_BYTES,
                    chunk_sha256={name: tuple(found) for name, found in digests.items()},
                ),
            )
        except BaseException:
            with suppress(StoreError):  # the first error is the one to tell; the lease runs out if this fails
                self._discard(published)
            raise
        self._remove_remains()

    def _announce(self, published: Published) -> None:
        def announce(client: Any) -> None:
            pipe = client.pipeline(transaction=False)
            pipe.set(self.keys.lease(published.upload), "1", ex=LEASE_S)
            pipe.hset(self.keys.uploads, published.upload, published.model_dump_json())
            pipe.execute()

        self.redis.ask(announce)

    def _send(self, folder: Path, published: Published, text: str, progress: Progress) -> dict[str, list[str]]:
        """Uploads every chunk; SHA-256 of each, per file."""
        files = parse_manifest_text(text, str(folder)).files
        digests: dict[str, list[str]] = {name: [] for name in files}
        done = 0
        progress(done, published.bytes)
        for batch in batches(_chunks(folder, files), BATCH_CHUNKS):
            self._send_batch(published, batch)
            for chunk in batch:
                digests[chunk.file].append(sha256(chunk.data).hexdigest())
                done += len(chunk.data)
            progress(done, published.bytes)
        return digests

    def _send_batch(self, published: Published, batch: list[Chunk]) -> None:
        def send(client: Any) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            for chunk in batch:
                pipe.set(self.keys.chunk(published.version, published.upload, chunk.file, chunk.number), chunk.data)
            pipe.set(self.keys.lease(published.upload), "1", ex=LEASE_S, xx=True)
            return list(pipe.execute())

        if not self.redis.ask(send)[-1]:
            raise _late(published.version)

    def _commit(self, published: Published, record: Record) -> None:
        keys = self.keys
        names = [keys.versions, keys.manifest(published.version), keys.uploads, keys.lease(published.upload)]
        names += [keys.deleted, keys.codes(published.version), keys.coded(published.version)]
        values = [published.version, published.digest, published.upload]
        values += [published.model_dump_json(), record.model_dump_json()]
        said = self.redis.ask(lambda client: client.eval(_COMMIT, len(names), *names, *values))
        if said == b"exists":
            raise _exists(published.version)
        if said == b"deleted":
            raise _had_other_bytes(published.version)
        if said == b"late":
            raise _late(published.version)

    def _remove_remains(self) -> set[str]:
        """Removes the chunks of uploads that were killed, replaced or deleted; whose they were."""
        versions = set()
        for raw in self.redis.ask(lambda client: client.hvals(self.keys.uploads)):
            remains = read_published(raw)
            if not self._is_under_way(remains.upload):
                self._discard(remains)
                versions.add(remains.version)
        return versions

    def _is_under_way(self, upload: str) -> bool:
        return bool(self.redis.ask(lambda client: client.exists(self.keys.lease(upload))))

    def _unlink(self, names: list[str]) -> None:
        self.redis.ask(lambda client: client.unlink(*names))

    def _discard(self, published: Published) -> None:
        """Removes an upload's chunks, but not where it was committed and only the answer got lost.

        The lease goes first: without it no commit that is still on its way succeeds.
        """
        self.redis.ask(lambda client: client.delete(self.keys.lease(published.upload)))
        known = self.redis.ask(lambda client: client.hget(self.keys.versions, published.version))
        if known is not None and read_published(known).upload == published.upload:
            return
        chunks = (
            self.keys.chunk(published.version, published.upload, file, number)
            for file, count in published.chunk_counts.items()
            for number in range(count)
        )
        for batch in batches(chunks, _UNLINK_KEYS):
            self._unlink(batch)
        self.redis.ask(lambda client: client.hdel(self.keys.uploads, published.upload))


def _memory_bytes(manifest: Manifest, allocator: str) -> int:
    """What a version takes in Redis at least: jemalloc, its usual allocator, has nothing between 4 MiB and 5."""
    sizes = [entry.bytes for entry in manifest.files.values()]
    spare = CHUNK_BYTES // 4 if allocator.startswith("jemalloc") else 0
    return sum(sizes) + spare * sum(size // CHUNK_BYTES for size in sizes)


def _chunks(folder: Path, files: dict[str, FileEntry]) -> Iterator[Chunk]:
    """Every chunk of every file; raises BadArtifact at the end of a file that is not what its manifest says."""
    for name, entry in files.items():
        whole, size = sha256(), 0
        for number, data in enumerate(_read(folder / name)):
            whole.update(data)
            size += len(data)
            if size > entry.bytes:
                break
            yield Chunk(name, number, data)
        if (size, whole.hexdigest()) != (entry.bytes, entry.sha256):
            raise BadArtifact(f"{folder / name} differs from its manifest; nothing was published")


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while data := stream.read(CHUNK_BYTES):
                yield data
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}") from None


def _exists(version: str) -> VersionExists:
    return VersionExists(f"version {version} is published already, with other bytes; publish under another name")


def _had_other_bytes(version: str) -> VersionExists:
    return VersionExists(f"version {version} was other bytes before it was deleted; publish under another name")


def _late(version: str) -> StoreError:
    return StoreError(
        f"the upload of version {version} paused for more than {LEASE_S} s and was given up; publish again"
    )


def _silent(done: int, total: int) -> None:
    del done, total
