"""What other replicas see of this one, through a real Redis."""

import socket
import time
from contextlib import closing
from pathlib import Path
from queue import Queue

import pytest

from service.api.control import ModelState, Status
from service.embedded_redis import embedded_redis
from service.errors import StoreReadOnly
from service.store import Store
from service.supervisor.reporter import Reporter, describe

STATUS = Status(
    active_version="v2",
    active_epoch=7,
    replica="abc",
    catalog_revision=3,
    models=(
        ModelState("v1", "active", 0.0),
        ModelState("v2", "loading", 0.0),
        ModelState("v3", "ready", 0.0),
        ModelState("v4", "unloaded", 0.0),
    ),
)


def test_a_report_says_what_serves_what_could_and_what_is_being_done() -> None:
    report = describe(STATUS, "http://here", "v1")
    assert (report.replica, report.address, report.epoch) == ("abc", "http://here", 7)
    assert (report.serving, report.ready_for, report.catalog_revision) == ("v1", ("v1", "v3"), 3)
    assert report.states == {"v1": "active", "v2": "loading", "v3": "ready"}


def test_a_change_is_told_at_once_and_the_end_too(store: Store) -> None:
    serving = ["v1"]
    reporter = Reporter(store, lambda: describe(STATUS, "http://here", serving[0]), lambda _: None)
    reporter.start()
    wait_for(store, ["v1"])
    serving[0] = "v3"
    reporter.changed()
    wait_for(store, ["v3"])
    reporter.stop()
    wait_for(store, [])


def test_a_redis_that_hangs_holds_nobody_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Store.connect(f"redis://127.0.0.1:{silent.getsockname()[1]}", "prorec")
        reporter = Reporter(store, lambda: describe(STATUS, "http://here", "v1"), lambda _: None)
        reporter.start()
        for _ in range(1000):
            reporter.changed()
        reporter.stop()


def test_a_redis_that_takes_no_changes_is_told_once_and_so_is_the_end_of_that(tmp_path: Path) -> None:
    told: Queue[str | None] = Queue()
    with embedded_redis(tmp_path) as url, closing(Store.connect(url, "prorec")) as store:
        reporter = Reporter(store, lambda: describe(STATUS, "http://here", "v1"), told.put)
        reporter.start()
        wait_for(store, ["v1"])
        store.redis.client.replicaof("127.0.0.1", 1)
        assert told.get(timeout=60) == f"Redis at {url} takes no changes now: it is a replica"
        with pytest.raises(StoreReadOnly):
            store.leave("abc")
        store.redis.client.replicaof("no", "one")
        assert told.get(timeout=60) is None
        reporter.stop()
        wait_for(store, [])
    assert told.empty()


def wait_for(store: Store, serving: list[str]) -> None:
    while [report.serving for report in store.replicas()] != serving:
        time.sleep(0.01)
