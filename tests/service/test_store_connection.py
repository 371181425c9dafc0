"""From URLs to servers: single ones, behind Sentinel, in a Cluster; and what is said of those that do not answer."""

import random
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import redis

from service.catalog.records import ItemChange
from service.embedded_redis import embedded_redis, find_binary
from service.errors import SettingsError, StoreReadOnly, StoreUnavailable
from service.store import Canary, CatalogSighting, Connection, Deployment, ReplicaReport, Store
from tests.service.plain_artifact import contents, plain_artifact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host", "redis://host"),
        ("redis://:hunter2@host:1234/3", "redis://host:1234/3"),
        ("rediss://user:hunter2@host?ssl_cert_reqs=required", "rediss://host"),
        ("unix:///run/redis.sock?password=hunter2", "unix:///run/redis.sock"),
        ("unix://:hunter2@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis+sentinel://a:1,b/models/2", "redis+sentinel://a:1,b/models/2"),
        ("rediss+sentinel://u:hunter2@a/models?sentinel_password=hunter2", "rediss+sentinel://a/models"),
        ("redis+cluster://:hunter2@a:1,[::1]:2", "redis+cluster://a:1,[::1]:2"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    connection = Connection(url)
    assert str(connection) == shown
    assert "hunter2" not in repr(connection)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:6379",
        "http://hunter2@host",
        "redis+magic://host",
        "unix+sentinel:///x",
        "redis://",
        "redis://:hunter2@",
        "redis://:hunter2#x@host",
        "redis://:hunter2/x@host",
        "redis://host:hunter2",
        "redis://host:99999",
        "redis://host/models",
        "redis://host?hunter2=1",
        "redis://host?db=hunter2",
        "redis://[::1",
        "unix://",
        "redis+sentinel://a:1,b:2",
        "redis+sentinel://a/models/hunter2",
        "redis+sentinel://a,,b/models",
        "redis+sentinel://a/models?hunter2=1",
        "redis+cluster://a/1",
        "redis+cluster://a:hunter2",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(SettingsError, match="the Redis URL") as caught:
        Connection(url)
    assert len(str(caught.value).splitlines()) == 1
    if "?hunter2" not in url:
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("password", "hint"), [("a#b", "%23"), ("1/2", "%2F"), ("a/b", "%2F")])
def test_a_password_that_breaks_its_url_is_told_how_to_be_written(password: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        Connection(f"redis://:{password}@host")


def test_a_server_that_is_not_there_is_named() -> None:
    port = free_port()
    for url, shown in [
        (f"redis://:hunter2@127.0.0.1:{port}/0", f"redis://127.0.0.1:{port}/0"),
        (
            f"redis+sentinel://:hunter2@127.0.0.1:{port}/models?sentinel_password=hunter2",
            f"redis+sentinel://127.0.0.1:{port}/models",
        ),
        (f"redis+cluster://:hunter2@127.0.0.1:{port}", f"redis+cluster://127.0.0.1:{port}"),
    ]:
        with closing(Store.connect(url, "prorec")) as store, pytest.raises(StoreUnavailable) as caught:
            store.ping()
        assert str(caught.value).startswith(f"Redis at {shown} does not answer: ")
        assert "hunter2" not in str(caught.value)


def test_a_wrong_password_is_told_and_not_printed(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url, closing(Store.connect(url, "prorec")) as admin:
        admin.redis.client.config_set("requirepass", "opensesame")
        path = url.removeprefix("unix://")
        for wrong in (url, f"unix://:hunter2@{path}", f"unix://{path}?password=hunter2", f"unix://bob:hunter2@{path}"):
            with closing(Store.connect(wrong, "prorec")) as store, pytest.raises(StoreUnavailable) as caught:
                store.ping()
            assert str(caught.value) == f"Redis at {url} refuses this user: password missing or wrong"
        with closing(Store.connect(f"unix://:opensesame@{path}", "prorec")) as store:
            store.ping()


def test_the_rights_that_the_operations_guide_names_are_enough(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    rights = re.search(r"`(resetchannels [^`]+)`", guide)
    assert rights is not None
    with embedded_redis(tmp_path / "redis") as url, closing(Store.connect(url, "prorec")) as admin:
        admin.redis.client.execute_command("ACL", "SETUSER", "app", "on", ">opensesame", *rights[1].split())
        own = f"unix://app:opensesame@{url.removeprefix('unix://')}"
        with closing(Store.connect(own, "prorec")) as store:
            works(store, tmp_path / "models")
        with closing(Store.connect(own, "another")) as store, pytest.raises(StoreReadOnly):
            store.versions()


def test_a_user_without_the_right_to_change_anything_is_told_so(tmp_path: Path) -> None:
    with embedded_redis(tmp_path / "redis") as url, closing(Store.connect(url, "prorec")) as admin:
        admin.publish(plain_artifact(tmp_path / "models", "v1"))
        rights = ("~*", "&*", "+@read", "+@connection", "+info", "+eval", "+evalsha", "+script")
        admin.redis.client.execute_command("ACL", "SETUSER", "reader", "on", ">opensesame", *rights)
        path = url.removeprefix("unix://")
        with closing(Store.connect(f"unix://reader:opensesame@{path}", "prorec")) as store:
            store.ping()
            assert [one.version for one in store.versions()] == ["v1"]
            for change in (partial(store.activate, "v1"), partial(store.leave, "abc")):  # in a script, and not
                with pytest.raises(StoreReadOnly, match=f"^Redis at {url} gives this user no right to that: "):
                    change()


def without_disk(server: Any, folder: Path) -> None:
    """As with a full disk: the last try to save has failed."""
    folder.mkdir()
    server.config_set("dir", str(folder))
    server.config_set("save", "3600 1")
    folder.rmdir()
    server.bgsave()
    wait_until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err")


def without_replicas(server: Any, _: Path) -> None:
    server.config_set("min-replicas-to-write", 1)


@pytest.mark.parametrize("trouble", [without_disk, without_replicas])
def test_a_server_that_takes_no_changes_may_be_asked_again_later(
    tmp_path: Path, trouble: Callable[[Any, Path], None]
) -> None:
    artifact = plain_artifact(tmp_path / "models", "v1")
    with embedded_redis(tmp_path / "redis") as url, closing(Store.connect(url, "prorec")) as store:
        store.publish(artifact)
        trouble(store.redis.client, tmp_path / "gone")
        for change in (
            partial(store.activate, "v1"),
            partial(store.publish, plain_artifact(tmp_path / "models", "v2")),
        ):
            with pytest.raises(StoreUnavailable, match=f"^Redis at {url} takes no changes now: (MISCONF|NOREPLICAS) "):
                change()
        assert [one.version for one in store.versions()] == ["v1"]
        store.redis.client.config_set("save", "")  # or it would not end without having saved


def test_either_protocol_gives_the_same_answers(redis_server: str, store: Store, tmp_path: Path) -> None:
    for protocol in (2, 3):
        url = f"{redis_server}?protocol={protocol}"
        with closing(Store.connect(url, f"{store.keys.namespace}-{protocol}")) as one:
            works(one, tmp_path / str(protocol))


def test_a_cluster_holds_a_namespace(tmp_path: Path) -> None:
    with cluster(tmp_path) as url, closing(Store.connect(url, "prorec")) as store:
        works(store, tmp_path / "models")


def test_sentinels_name_the_master(tmp_path: Path) -> None:
    with sentinel(tmp_path) as url, closing(Store.connect(url, "prorec")) as store:
        works(store, tmp_path / "models")


def works(store: Store, folder: Path) -> None:
    """Every kind of command once."""
    artifact = plain_artifact(folder, "v1")
    store.publish(artifact)
    assert contents(store.fetch("v1", folder / "cache").folder) == contents(artifact.folder)
    stop = Event()
    sightings = store.watch(stop, 0.05)
    assert next(sightings) is None
    assert next(sightings) == CatalogSighting(0, [], whole=True)
    store.activate("v1", if_active=None)
    assert next(sightings) == store.deployment() == Deployment("v1", 1, ())
    stop.set()
    assert list(sightings) == []
    store.publish(plain_artifact(folder, "v2"))
    store.activate("v2")
    assert store.rollback().version == "v1"
    assert store.set_traffic(Canary("v2", 10.0), None).canary == Canary("v2", 10.0)
    assert store.set_traffic(None, None).epoch == 5
    works_live(store)
    store.delete("v2")
    assert [info.version for info in store.versions()] == ["v1"]


def works_live(store: Store) -> None:
    """The same of the catalog and of replicas."""
    changed = store.change_items([ItemChange("one", available=False), ItemChange("two", item={"item_id": "two"})])
    assert [record.item_id for record in store.catalog_changes(0).records] == ["one", "two"]
    assert (changed.revision, changed.changed) == (1, 2)
    assert store.change_items([ItemChange("one", available=True)]).revision == store.catalog_revision() == 2
    assert [record.item_id for record in store.catalog_changes(1).records] == ["one"]
    assert store.place("v2", {"two": (1, 2)}) == store.placements("v2") == {"two": (1, 2)}
    store.report(ReplicaReport("r-1", "http://here", epoch=5, serving="v1"))
    assert [report.replica for report in store.wait_until_active("v1", 1.0)] == ["r-1"]
    store.leave("r-1")
    assert store.replicas() == []
    assert len(store.events()) == 5


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """URL of a Cluster of one node."""
    with server(folder, "--cluster-enabled", "yes") as port, closing(redis.Redis(port=port)) as client:
        admin: Any = client  # redis-py gives these commands no types
        admin.execute_command("CLUSTER ADDSLOTS", *range(16384))
        wait_until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield f"redis+cluster://127.0.0.1:{port}"


@contextmanager
def sentinel(folder: Path) -> Iterator[str]:
    """URL of a master behind one Sentinel."""
    with ExitStack() as stack:
        master = stack.enter_context(server(folder))
        config = folder / "sentinel.conf"
        config.write_text(f"sentinel monitor models 127.0.0.1 {master} 1\n")
        port = stack.enter_context(server(folder, "--sentinel", config=config))
        dead = free_port()
        yield f"redis+sentinel://127.0.0.1:{dead},127.0.0.1:{port}/models/1"


@contextmanager
def server(folder: Path, *options: str, config: Path | None = None) -> Iterator[int]:
    """Port of a bare server that answers."""
    port = free_port()
    program = [find_binary(), *([str(config)] if config else []), "--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen([*program, "--dir", str(folder), *options], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answers(port))
            yield port
        finally:
            process.terminate()


def answers(port: int) -> bool:
    try:
        with closing(redis.Redis(port=port)) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def free_port() -> int:
    """Below 30,000, as a Cluster node takes the port 10,000 above its own too."""
    while True:
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def wait_until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
