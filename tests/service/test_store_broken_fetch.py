"""Fetches that were broken off: what the next one uses of them; and disks without room for one."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.artifact import MANIFEST
from service.errors import StoreCorrupt, StoreError, StoreUnavailable, UnknownVersion
from service.store import Store
from service.store.fetch import Fetcher, _check_room
from service.store.records import CHUNK_BYTES
from tests.service.plain_artifact import SEVERAL_BATCHES, contents, plain_artifact
from tests.service.store_probes import chunks_before, cut_off, stored_keys

WEIGHTS = "search.weights"


def test_a_fetch_goes_on_in_the_middle_of_a_file(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    store.publish(artifact)
    with cut_off(store, "v1", WEIGHTS, 4), pytest.raises(StoreCorrupt, match="chunk 4"):
        store.fetch("v1", tmp_path / "cache")
    store.redis.client.delete(*chunks_before(store, "v1", WEIGHTS, 4))
    fetched = store.fetch("v1", tmp_path / "cache").folder
    assert contents(fetched) == contents(artifact.folder)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["v1"]


def test_a_fetch_goes_on_after_an_outage(own_store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    own_store.publish(artifact)
    known = ("~{prorec}:versions", "~{prorec}:v:v1:manifest", "~{prorec}:v:v1:*:[a-r]*")
    own_store.redis.client.execute_command("ACL", "SETUSER", "default", "resetkeys", *known)
    with pytest.raises(StoreUnavailable):
        own_store.fetch("v1", tmp_path / "cache")
    own_store.redis.client.execute_command("ACL", "SETUSER", "default", "~*")
    own_store.redis.client.delete(*chunks_before(own_store, "v1", WEIGHTS))
    assert contents(own_store.fetch("v1", tmp_path / "cache").folder) == contents(artifact.folder)


def test_a_fetch_goes_on_where_another_process_was_killed(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    store.publish(artifact)
    program = f"""
import os, signal, sys
from pathlib import Path
from service.store import Store
def die(event, values):
    if event == "open" and str(values[0]).endswith({WEIGHTS!r}): os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
Store.connect({store.redis.url!r}, {store.keys.namespace!r}).fetch("v1", Path({str(tmp_path / "cache")!r}))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    store.redis.client.delete(*chunks_before(store, "v1", WEIGHTS))
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(artifact.folder)


def cut_short(aside: Path) -> None:
    (aside / WEIGHTS).write_bytes((aside / WEIGHTS).read_bytes()[:-1])


def grown(aside: Path) -> None:
    (aside / WEIGHTS).write_bytes((aside / WEIGHTS).read_bytes() + b"x")


def wrong_in_the_middle(aside: Path) -> None:
    with (aside / WEIGHTS).open("r+b") as stream:
        stream.seek(CHUNK_BYTES + 1)
        stream.write(b"wrong")


def others(aside: Path) -> None:
    (aside / "junk").write_bytes(b"junk")
    (aside / "folder").mkdir()
    (aside / "folder" / "junk").write_bytes(b"junk")
    (aside / MANIFEST).write_text("{}")


@pytest.mark.parametrize("spoil", [cut_short, grown, wrong_in_the_middle, others])
def test_what_is_not_right_in_a_broken_fetch_is_fetched_anew(
    spoil: Callable[[Path], None], store: Store, tmp_path: Path
) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    store.publish(artifact)
    aside = tmp_path / "cache" / ".v1.fetching"
    aside.mkdir(parents=True)
    for name, data in contents(artifact.folder).items():
        (aside / name).write_bytes(data)
    spoil(aside)
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(artifact.folder)


def test_what_a_broken_fetch_left_of_other_bytes_is_not_used(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path / "one"))
    with cut_off(store, "v1", WEIGHTS), pytest.raises(StoreCorrupt):
        store.fetch("v1", tmp_path / "cache")
    store.redis.client.delete(*stored_keys(store))  # as a flush does
    other = plain_artifact(tmp_path / "two", seed=5)
    store.publish(other)
    assert contents(store.fetch("v1", tmp_path / "cache").folder) == contents(other.folder)


def test_a_version_deleted_while_it_is_fetched_leaves_nothing(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    old = Fetcher(store.redis, store.keys).record("v1")
    store.delete("v1")
    cache = tmp_path / "cache"
    cache.mkdir()
    with pytest.raises(UnknownVersion):
        Fetcher(store.redis, store.keys)._fetch(old, cache)
    assert list(cache.iterdir()) == []


def test_fetches_at_the_same_moment_go_on_with_one_folder(store: Store, tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path, weights_bytes=SEVERAL_BATCHES)
    store.publish(artifact)
    with cut_off(store, "v1", WEIGHTS, 4), pytest.raises(StoreCorrupt):
        store.fetch("v1", tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:
        fetched = list(pool.map(lambda _: store.fetch("v1", tmp_path / "cache"), range(4)))
    assert {one.folder for one in fetched} == {tmp_path / "cache" / "v1"}
    assert contents(fetched[0].folder) == contents(artifact.folder)


def enlarge(store: Store, version: str, size_bytes: int) -> None:
    """The record says that the weights have so many bytes, in one chunk."""
    key = store.keys.manifest(version)
    record = json.loads(store.redis.client.get(key))
    manifest = json.loads(record["manifest_text"])
    manifest["files"][WEIGHTS]["bytes"] = size_bytes
    store.redis.client.set(key, json.dumps(record | {"manifest_text": json.dumps(manifest), "chunk_bytes": size_bytes}))


def test_a_version_that_the_disk_has_no_room_for_is_refused(store: Store, tmp_path: Path) -> None:
    artifact, cache = plain_artifact(tmp_path), tmp_path / "cache"
    store.publish(artifact)
    served = store.fetch("v1", cache)
    enlarge(store, "v1", 10**18)
    with pytest.raises(
        StoreError, match=rf"^version v1 needs 10+\.\d MB on the disk of {cache}, where \d+\.\d MB are free$"
    ):
        store.fetch("v1", cache)
    assert contents(served.folder) == contents(artifact.folder)


def test_what_is_there_already_needs_no_room(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    whole_disk = shutil.disk_usage(tmp_path).total
    enlarge(store, "v1", whole_disk)
    record = Fetcher(store.redis, store.keys).record("v1")
    with pytest.raises(StoreError, match="on the disk"):
        _check_room(record, tmp_path)
    with (tmp_path / WEIGHTS).open("wb") as stream:
        stream.truncate(whole_disk)  # a hole, which takes no room
    _check_room(record, tmp_path)


def test_a_file_system_that_does_not_know_its_size_may_have_room(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path))
    _check_room(Fetcher(store.redis, store.keys).record("v1"), Path("/proc/sys/kernel/random"))
