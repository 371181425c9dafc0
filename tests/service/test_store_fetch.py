"""Fetching versions: what Redis or the disk may have done to them, and the cache."""

import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.artifact import Artifact
from service.errors import (
    BadArtifact,
    StoreCorrupt,
    StoreError,
    UnknownVersion,
)
from service.store import Store
from service.store.fetch import Fetcher, remove_remains
from tests.service.plain_artifact import SEVERAL_BATCHES, contents, edit_manifest, plain_artifact
from tests.service.store_probes import chunk_key, flip_a_byte, stored_keys


def test_a_flipped_byte_is_found_and_no_version_appears(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES))
    flip_a_byte(store, chunk_key(store, "v1", "search.weights", 4))
    with pytest.raises(StoreCorrupt, match=r"chunk 4 of search\.weights of version v1 differs"):
        store.fetch("v1", tmp_path / "cache")
    assert not (tmp_path / "cache" / "v1").exists()


def test_a_missing_chunk_is_found(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    store.redis.client.delete(chunk_key(store, "v1", "search.weights"))
    with pytest.raises(StoreCorrupt, match="missing"):
        store.fetch("v1", tmp_path / "cache")


@pytest.mark.parametrize("record", [b"", b"{}", b"not json", None])
def test_a_damaged_record_is_found_and_repaired(record: bytes | None, store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    store.publish(artifact)
    key = store.keys.manifest("v1")
    store.redis.client.delete(key) if record is None else store.redis.client.set(key, record)
    with pytest.raises(StoreCorrupt):
        store.fetch("v1", tmp_path / "cache")
    store.publish(artifact)
    assert store.fetch("v1", tmp_path / "cache").manifest == artifact.manifest


def test_the_record_of_another_version_is_not_believed(store: Store, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        store.publish(plain_artifact(tmp_path, version))
    store.redis.client.copy(store.keys.manifest("v1"), store.keys.manifest("v2"), replace=True)
    with pytest.raises(StoreCorrupt, match="version v2"):
        store.fetch("v2", tmp_path / "cache")


def test_a_record_that_names_a_path_is_not_followed(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    key = store.keys.manifest("v1")
    record = json.loads(store.redis.client.get(key))
    store.redis.client.set(key, json.dumps(record).replace("search.weights", "../../escaped"))
    with pytest.raises(BadArtifact, match="escaped"):
        store.fetch("v1", tmp_path / "cache")
    assert not (tmp_path / "escaped").exists()


def test_a_list_of_chunks_that_is_wrong_itself_is_found(store: Store, tmp_path: Path) -> None:
    """Chunks swapped between two files agree with a record that swaps them too, but not with the manifest."""
    store.publish(plain_artifact(tmp_path))
    key = store.keys.manifest("v1")
    record = json.loads(store.redis.client.get(key))
    one, other = "child_token_0.npy", "child_token_1.npy"
    digests = record["chunk_sha256"]
    digests[one], digests[other] = digests[other], digests[one]
    store.redis.client.set(key, json.dumps(record))
    names = [chunk_key(store, "v1", name) for name in (one, other)]
    first, second = store.redis.client.mget(names)
    store.redis.client.mset({names[0]: second, names[1]: first})
    with pytest.raises(StoreCorrupt, match="differs from its manifest"):
        store.fetch("v1", tmp_path / "cache")


def test_a_manifest_of_another_schema_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="schema version 99"):
        store.publish(edit_manifest(plain_artifact(tmp_path), schema_version=99))


def test_a_version_published_anew_during_a_fetch_is_fetched(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    store.publish(artifact)
    fetcher = Fetcher(store.redis, store.keys)
    old = fetcher.record("v1")
    store.activate("v1")
    flip_a_byte(store, chunk_key(store, "v1", "search.weights"))
    store.publish(artifact)
    (tmp_path / "aside").mkdir()
    fetcher._download(old, tmp_path / "aside")
    assert contents(tmp_path / "aside") == contents(artifact.folder)


def test_a_version_deleted_during_a_fetch_is_unknown(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    fetcher = Fetcher(store.redis, store.keys)
    old = fetcher.record("v1")
    store.delete("v1")
    with pytest.raises(UnknownVersion):
        fetcher._download(old, tmp_path)


def test_keys_of_another_program_are_no_crash(store: Store) -> None:
    store.redis.client.set(store.keys.active, "a string")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        store.deployment()


def test_a_cached_version_is_used_without_its_chunks(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    store.publish(artifact)
    store.fetch("v1", tmp_path / "cache")
    store.redis.client.delete(chunk_key(store, "v1", "search.weights"))
    assert store.fetch("v1", tmp_path / "cache").manifest == artifact.manifest


def test_a_damaged_cache_is_fetched_again(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    store.publish(artifact)
    cached = store.fetch("v1", tmp_path / "cache").folder
    (cached / "search.weights").write_bytes(b"x" * 1000)
    store.fetch("v1", tmp_path / "cache")
    assert contents(cached) == contents(artifact.folder)


def test_cached_files_that_nobody_touched_are_not_read_again(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    weights = store.fetch("v1", tmp_path / "cache").folder / "search.weights"
    before = weights.stat()
    weights.write_bytes(b"x" * before.st_size)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.fetch("v1", tmp_path / "cache")
    assert weights.read_bytes() == b"x" * before.st_size
    os.utime(weights)
    store.fetch("v1", tmp_path / "cache")
    assert weights.read_bytes() != b"x" * before.st_size


def test_another_version_of_the_same_name_in_the_cache_is_replaced(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path / "one"))
    mapped = store.fetch("v1", tmp_path / "cache").array("codes")
    before = mapped.copy()
    store.redis.client.delete(*stored_keys(store))  # as a flush does
    other = plain_artifact(tmp_path / "two", seed=5)
    store.publish(other)
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(other.folder)
    assert (mapped == before).all(), "an engine that maps the old files keeps them"


def test_fetches_at_the_same_moment_share_one_folder(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    store.publish(artifact)
    with ThreadPoolExecutor(4) as pool:
        fetched: list[Artifact] = list(pool.map(lambda _: store.fetch("v1", tmp_path / "cache"), range(4)))
    assert {one.folder for one in fetched} == {tmp_path / "cache" / "v1"}
    assert contents(fetched[0].folder) == contents(artifact.folder)


def test_remains_of_killed_fetches_are_removed_unless_one_goes_on(tmp_path: Path) -> None:
    for version in ("v1", "v2", "v3"):
        (tmp_path / f".{version}.lock").touch()
        for kind in ("fetching", "old"):
            (tmp_path / f".{version}.{kind}").mkdir()
            (tmp_path / f".{version}.{kind}" / "junk").write_bytes(b"junk")
    with (tmp_path / ".v2.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_remains(tmp_path, {"v3"})
        left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
        assert left == [".v2.fetching", ".v2.old", ".v3.fetching"]
    remove_remains(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_told_in_a_sentence(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write version v1"):
        store.fetch("v1", tmp_path / "file")
