"""Publishing and deleting versions, against a real Redis."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from models.artifact import MANIFEST
from service.errors import (
    BadArtifact,
    EvictionPolicy,
    StoreError,
    StoreReadOnly,
    StoreUnavailable,
    UnknownVersion,
    VersionActive,
    VersionExists,
)
from service.store import ReplicaReport, Store
from service.store.publish import Publisher, _memory_bytes
from service.store.records import CHUNK_BYTES, Published, Record
from tests.service.plain_artifact import SEVERAL_BATCHES, contents, edit_manifest, plain_artifact
from tests.service.store_probes import chunk_key, flip_a_byte, losing_the_first_answer, stored_keys

ODD_NAMES = ["", "ü", "a b", "../v1", "v1\n", "a:b", "a,b", ".hidden", "a" * 65, "\ud800", "v1\x00"]


def test_what_is_fetched_is_what_was_published(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    sent = store.publish(artifact)
    fetched = store.fetch("v1", tmp_path / "cache")
    assert sent == sum(entry.bytes for entry in artifact.manifest.files.values())
    assert fetched.folder == tmp_path / "cache" / "v1"
    assert contents(fetched.folder) == contents(artifact.folder)
    assert fetched.manifest == artifact.manifest
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["v1"]


def test_a_version_does_not_exist_before_its_last_byte(store: Store, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        seen.append((done, total))
        assert store.versions() == []
        with pytest.raises(UnknownVersion):
            store.fetch("v1", tmp_path / "cache")
        with pytest.raises(UnknownVersion):
            store.activate("v1")

    total = store.publish(plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES), look)
    assert (seen[0], seen[-1]) == ((0, total), (total, total))
    assert len(seen) > 3
    assert [info.version for info in store.versions()] == ["v1"]


def test_versions_are_listed_last_published_first(store: Store, tmp_path: Path) -> None:
    sizes = [store.publish(plain_artifact(tmp_path, version)) for version in ("b", "a")]
    newest = store.versions()[0]
    assert [info.version for info in store.versions()] == ["a", "b"]
    assert (newest.item_count, newest.metrics) == (8, {"model": {"recall@10": 0.5}})
    assert newest.bytes == sizes[1]
    assert newest.published_at >= newest.created_at


def test_publishing_the_same_bytes_again_sends_nothing(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    first = store.publish(artifact)
    keys, listed = stored_keys(store), store.versions()
    told: list[int] = []
    assert store.publish(artifact, lambda done, _: told.append(done)) == first
    assert (stored_keys(store), store.versions(), told) == (keys, listed, [])


def test_other_bytes_under_a_published_name_are_refused(store: Store, tmp_path: Path) -> None:
    first = plain_artifact(tmp_path / "one")
    store.publish(first)
    keys = stored_keys(store)
    with pytest.raises(VersionExists, match="v1"):
        store.publish(
            plain_artifact(tmp_path / "two", seed=1), lambda *_: pytest.fail("it was sent before it was refused")
        )
    assert stored_keys(store) == keys
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(first.folder)


def test_of_two_publishers_of_one_name_one_wins_whole(store: Store, tmp_path: Path) -> None:
    slow, fast = (plain_artifact(tmp_path / str(seed), seed=seed) for seed in (1, 2))

    def overtake(done: int, _: int) -> None:
        if done == 0:
            store.publish(fast)

    with pytest.raises(VersionExists):
        store.publish(slow, overtake)
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(fast.folder)
    assert not store.redis.client.exists(store.keys.uploads)


def test_a_killed_publish_leaves_no_version_and_its_remains_go(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    program = f"""
import os, signal
from pathlib import Path
from models.artifact import Artifact
from service.store import Store
store = Store.connect({store.redis.url!r}, {store.keys.namespace!r})
def die(done, total):
    if done > 5_000_000: os.kill(os.getpid(), signal.SIGKILL)
store.publish(Artifact.open(Path({str(artifact.folder)!r})), die)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    remains = stored_keys(store)
    assert len(remains) > 4
    assert store.versions() == []

    store.publish(artifact)
    assert remains <= stored_keys(store), "while its lease runs, an upload may still be alive"
    (upload,) = store.redis.client.hkeys(store.keys.uploads)
    store.redis.client.delete(store.keys.lease(upload.decode()))  # as time does
    store.publish(plain_artifact(tmp_path, "v2"))
    assert remains & stored_keys(store) == set()
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(artifact.folder)


@pytest.mark.parametrize("lost_at_end", [False, True])
def test_an_upload_that_lost_its_lease_does_not_become_a_version(
    lost_at_end: bool, store: Store, tmp_path: Path
) -> None:
    told: list[int] = []

    def lose(done: int, total: int) -> None:
        told.append(done)
        if done == (total if lost_at_end else 0):
            (upload,) = store.redis.client.hkeys(store.keys.uploads)
            store.redis.client.delete(store.keys.lease(upload.decode()))

    with pytest.raises(StoreError, match="publish again"):
        store.publish(plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES), lose)
    assert stored_keys(store) == set()
    assert lost_at_end or told == [0], "it stops at the next batch"


def test_a_commit_whose_answers_are_lost_keeps_its_chunks(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, commit = plain_artifact(tmp_path), Publisher._commit

    def unheard(self: Publisher, published: Published, record: Record) -> None:
        commit(self, published, record)
        raise StoreUnavailable("no answer came")

    monkeypatch.setattr(Publisher, "_commit", unheard)
    with pytest.raises(StoreUnavailable):
        store.publish(artifact)
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(artifact.folder)
    monkeypatch.undo()
    store.publish(artifact)


def test_publishing_again_repairs_damage(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    store.publish(artifact)
    store.activate("v1")
    keys = len(stored_keys(store))
    flip_a_byte(store, chunk_key(store, "v1", "search.weights"))
    store.publish(artifact)
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(artifact.folder)
    assert len(stored_keys(store)) == keys, "the damaged chunks are gone"


def test_a_file_that_changed_after_its_manifest_is_not_published(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    told: list[int] = []
    for changed in (b"x" * 1000, b"x" * SEVERAL_BATCHES, b""):
        (artifact.folder / "search.weights").write_bytes(changed)
        with pytest.raises(BadArtifact, match=r"search\.weights differs"):
            store.publish(artifact, lambda done, _: told.append(done))
    assert max(told) <= sum(entry.bytes for entry in artifact.manifest.files.values()), (
        "what a file has too much is not sent"
    )
    (artifact.folder / "search.weights").unlink()
    with pytest.raises(BadArtifact, match="cannot be read"):
        store.publish(artifact)
    assert stored_keys(store) == set()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_version_names_are_refused(name: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact):
        store.publish(edit_manifest(plain_artifact(tmp_path), model_version=name))
    for refused in (store.activate, store.delete, lambda v: store.fetch(v, tmp_path / "cache")):
        with pytest.raises(UnknownVersion):
            refused(name)
    assert stored_keys(store) == set()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "manifest.json", "", "ä", ".x"])
def test_odd_file_names_are_refused(name: str, store: Store, tmp_path: Path) -> None:
    artifact = edit_manifest(plain_artifact(tmp_path), files={name: {"bytes": 0, "sha256": "0" * 64}})
    with pytest.raises(BadArtifact):
        store.publish(artifact)


def test_a_folder_without_a_manifest_is_refused(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    (artifact.folder / MANIFEST).unlink()
    with pytest.raises(BadArtifact, match=r"manifest\.json"):
        store.publish(artifact)


def test_an_eviction_policy_that_could_drop_models_is_refused(own_store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    for policy in ("allkeys-lru", "allkeys-lfu", "allkeys-random"):
        own_store.redis.client.config_set("maxmemory-policy", policy)
        with pytest.raises(EvictionPolicy, match=policy):
            own_store.publish(artifact)
    assert stored_keys(own_store) == set()
    own_store.redis.client.config_set("maxmemory-policy", "volatile-lru")
    own_store.publish(artifact)


def test_a_redis_that_fills_up_meanwhile_is_told_in_a_sentence(own_store: Store, tmp_path: Path) -> None:
    def fill(done: int, _: int) -> None:
        if done > 0:
            own_store.redis.client.config_set("maxmemory", 1)

    with pytest.raises(StoreReadOnly, match="is full"):
        own_store.publish(plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES), fill)
    assert stored_keys(own_store) == set()


def test_a_version_that_cannot_fit_is_refused_before_anything_is_sent(own_store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    own_store.redis.client.config_set("maxmemory", 16 * 1024 * 1024)
    needs, left = r"version v1 needs 2\d\.\d MB of memory", r"where 1\d\.\d MB of maxmemory are left"
    with pytest.raises(StoreReadOnly, match=f"{needs} in Redis at {own_store.redis}, {left}"):
        own_store.publish(artifact, lambda *_: pytest.fail("it was sent before it was refused"))
    assert stored_keys(own_store) == set()


def test_what_a_version_is_said_to_need_is_no_more_than_it_takes(own_store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    before = own_store.redis.client.info("memory")
    own_store.publish(artifact)
    own_store.close()  # or buffers of the connection would count
    taken = own_store.redis.client.info("memory")["used_memory"] - before["used_memory"]
    assert SEVERAL_BATCHES < _memory_bytes(artifact.manifest, before["mem_allocator"]) <= taken


def test_a_redis_with_jemalloc_takes_a_quarter_more_for_a_whole_chunk(tmp_path: Path) -> None:
    manifest = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES).manifest
    assert _memory_bytes(manifest, "jemalloc-5.3.0") - _memory_bytes(manifest, "libc") == 5 * CHUNK_BYTES // 4


def test_published_bytes_are_published_again_where_a_second_copy_would_not_fit(
    own_store: Store, tmp_path: Path
) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    own_store.publish(artifact)
    own_store.redis.client.config_set("maxmemory", 40 * 1024 * 1024)
    own_store.publish(artifact)


def test_a_version_is_deleted_from_a_redis_that_is_full(own_store: Store, tmp_path: Path) -> None:
    own_store.publish(plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES))
    own_store.redis.client.config_set("maxmemory", 1)
    own_store.delete("v1")
    assert stored_keys(own_store) == {own_store.keys.deleted.encode()}


def test_deleting_leaves_only_which_bytes_had_the_name(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES))
    store.delete("v1")
    assert stored_keys(store) == {store.keys.deleted.encode()}
    with pytest.raises(UnknownVersion):
        store.delete("v1")


def test_a_deletion_whose_answer_is_lost_leaves_nothing(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    with losing_the_first_answer(store) as unlucky:
        Publisher(unlucky.redis, unlucky.keys).delete("v1")
    assert stored_keys(store) == {store.keys.deleted.encode()}


def test_the_name_of_deleted_bytes_is_given_to_no_others(store: Store, tmp_path: Path) -> None:
    artifact, other = plain_artifact(tmp_path / "one"), plain_artifact(tmp_path / "two", seed=1)
    for _ in range(2):
        store.publish(artifact)
        assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(artifact.folder)
        store.delete("v1")
        with pytest.raises(VersionExists, match=r"^version v1 was other bytes before it was deleted; publish under an"):
            store.publish(other, lambda *_: pytest.fail("it was sent before it was refused"))
    assert store.versions() == []


def test_bytes_on_their_way_do_not_get_the_name_of_those_that_are_deleted_meanwhile(
    store: Store, tmp_path: Path
) -> None:
    slow, fast = (plain_artifact(tmp_path / str(seed), seed=seed) for seed in (1, 2))

    def come_and_go(done: int, _: int) -> None:
        if done == 0:
            store.publish(fast)
            store.delete("v1")

    with pytest.raises(VersionExists, match="before it was deleted"):
        store.publish(slow, come_and_go)
    assert stored_keys(store) == {store.keys.deleted.encode()}


def test_a_deletion_that_broke_off_is_finished_when_it_is_repeated(own_store: Store, tmp_path: Path) -> None:
    own_store.publish(plain_artifact(tmp_path))
    admin = own_store.redis.client
    admin.execute_command("ACL", "SETUSER", "default", "-hvals")
    with pytest.raises(StoreReadOnly):
        Publisher(own_store.redis, own_store.keys).delete("v1")
    admin.execute_command("ACL", "SETUSER", "default", "+hvals")
    assert own_store.versions() == []
    left = {own_store.keys.deleted.encode()}
    assert stored_keys(own_store) > left
    own_store.delete("v1")
    assert stored_keys(own_store) == left
    with pytest.raises(UnknownVersion):
        own_store.delete("v1")


def test_a_version_on_its_way_is_not_there_to_be_deleted(store: Store, tmp_path: Path) -> None:
    def delete(_done: int, _total: int) -> None:
        with pytest.raises(UnknownVersion):
            store.delete("v1")

    store.publish(plain_artifact(tmp_path), delete)
    assert [info.version for info in store.versions()] == ["v1"]


def test_a_version_that_still_answers_is_not_deleted(store: Store, tmp_path: Path) -> None:
    """Another is active already, and may yet fail to load."""
    for version in ("v1", "v2"):
        store.publish(plain_artifact(tmp_path, version))
    store.activate("v2")
    store.report(ReplicaReport("r-1", "http://here", epoch=1, serving="v1"))
    with pytest.raises(VersionActive, match=r"^version v1 still answers on replica r-1$"):
        store.delete("v1")
    store.report(ReplicaReport("r-1", "http://here", epoch=1, serving="v2"))
    store.delete("v1")


def test_the_active_version_is_not_deleted(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    store.activate("v1")
    with pytest.raises(VersionActive):
        store.delete("v1")
    assert [info.version for info in store.versions()] == ["v1"]


def test_two_namespaces_do_not_see_each_other(store: Store, redis_server: str, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    with closing(Store.connect(redis_server, f"{store.keys.namespace}-other")) as other:
        assert other.versions() == []


def test_the_same_bytes_from_two_publishers_at_once_are_one_version(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: store.publish(artifact), range(3)))
    store.publish(plain_artifact(tmp_path, "v2"))
    assert not store.redis.client.exists(store.keys.uploads)
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(artifact.folder)
