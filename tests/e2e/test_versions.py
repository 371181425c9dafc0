"""A whole replica with several versions: instant ways back, loaded versions, automatic rollback, other replicas."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from models.artifact import Artifact
from service.__main__ import app
from service.catalog.records import ItemChange
from service.store import Store

from .replica import Load, RedisServer, Replica, replica, wait_until


@contextmanager
def serving(store: Store, folder: Path, **settings: Any) -> Iterator[Replica]:
    """One worker, with the first model loaded."""
    with replica(redis_url=store.redis.url, data_dir=folder, **settings) as one:
        one.first_line()
        one.wait_for(status="ready", model_version="tiny-1")
        yield one


def found(one: Replica) -> list[str]:
    return [item["item_id"] for item in one.recommend("item-1").json()["items"]]


def restore(store: Store, folder: Path) -> list[str]:
    """What the command says line by line; it succeeds."""
    environment = {"PROREC_REDIS_URL": store.redis.url, "PROREC_DATA_DIR": str(folder)}
    done = CliRunner().invoke(app, ["restore"], env=environment)
    assert done.exit_code == 0
    lines: list[str] = done.stdout.splitlines()
    return lines


@pytest.fixture
def running(store: Store, tmp_path: Path) -> Iterator[Replica]:
    # Tests run where memory may be short, and that is not what they test.
    with serving(store, tmp_path, warm_memory_percent=0) as one:
        yield one


def engines(one: Replica) -> set[int]:
    return {child.pid for child in one.children("service.engine")}


def state(one: Replica, version: str) -> str:
    rows = one.models()["models"]
    return str(next(row["state"] for row in rows if row["model_version"] == version))


def test_the_way_back_to_the_version_before_starts_no_engine_and_fails_no_request(
    running: Replica, store: Store
) -> None:
    with Load(lambda: running.recommend("item-1"), threads=2) as load:
        store.activate("tiny-2")
        running.wait_for(status="ready", model_version="tiny-2")
        both = engines(running)
        assert len(both) == 2
        assert state(running, "tiny-1") == "ready"
        store.rollback()
        running.wait_for(status="ready", model_version="tiny-1")
        load.more(20)
        assert engines(running) <= both
    assert {answer.status_code for answer in load.answers if not isinstance(answer, Exception)} == {200}
    assert not [answer for answer in load.answers if isinstance(answer, Exception)]
    wait_until(lambda: state(running, "tiny-2") == "unloaded")
    assert running.metric("prorec_engine_losses_total") == 0


def test_what_was_added_has_its_codes_again_in_a_version_that_was_deleted_and_comes_back(
    running: Replica, store: Store, first: Artifact
) -> None:
    embedding = {str(first.manifest.text_encoder): np.full(first.manifest.semantic_width, 0.5, "<f4").tobytes()}
    for number in range(3):
        new = ItemChange(f"new-{number}", item={"item_id": f"new-{number}"}, embeddings=embedding)
        store.change_items([new])
        wait_until(lambda: running.metric("prorec_catalog_revision") == store.catalog_revision())
    codes = store.placements("tiny-1")
    assert len(codes) == 3
    store.activate("tiny-2")
    running.wait_for(status="ready", model_version="tiny-2")
    wait_until(lambda: len(running.children("service.reader")) == 2)
    store.wait_until_active("tiny-2", 60.0)
    store.change_items([ItemChange("new-0", remove=True)])  # another replica would give the other two its place now
    store.delete("tiny-1")
    wait_until(lambda: len(engines(running)) == len(running.children("service.reader")) == 1)
    store.publish(first)
    store.activate("tiny-1")
    running.wait_for(status="ready", model_version="tiny-1")
    wait_until(lambda: len(running.children("service.reader")) == 2)
    assert store.placements("tiny-1") == codes
    for item_id in ("new-1", "new-2"):
        wait_until(lambda wanted=item_id: running.document(wanted).get("code") == list(codes[wanted]))  # type: ignore[misc]


def test_a_loaded_version_takes_over_with_the_engine_it_has(running: Replica, store: Store) -> None:
    store.pin("tiny-2")
    wait_until(lambda: state(running, "tiny-2") == "ready")
    both = engines(running)
    assert running.ready()["model_version"] == "tiny-1"
    store.activate("tiny-2")
    running.wait_for(status="ready", model_version="tiny-2")
    assert engines(running) == both


def test_a_replica_tells_the_others_what_it_serves_and_that_it_goes(running: Replica, store: Store) -> None:
    (report,) = store.wait_until_active("tiny-1", 60.0)
    assert report.address == str(running.client.base_url)
    store.activate("tiny-2")
    (report,) = store.wait_until_active("tiny-2", 60.0)
    assert set(report.ready_for) == {"tiny-1", "tiny-2"}
    assert running.recommend("item-1").headers["X-Model-Version"] == "tiny-2"
    running.end()
    assert store.replicas() == []


def test_a_new_version_whose_engine_keeps_ending_is_rolled_back(store: Store, tmp_path: Path) -> None:
    with serving(store, tmp_path, warm_memory_percent=0, rollback_window_s=600) as one:
        first = engines(one)
        store.activate("tiny-2")
        one.wait_for(status="ready", model_version="tiny-2")
        killed: set[int] = set(first)
        while len(killed) < len(first) + 3:
            for child in one.children("service.engine"):
                if child.pid not in killed and one.ready()["status"] == "ready":
                    killed.add(child.pid)
                    child.kill()
        one.wait_for(status="ready", model_version="tiny-1")
        deployment = store.deployment()
        assert deployment is not None
        assert deployment.reason == "automatic rollback: the engine of tiny-2 ended 3 times"
        assert one.metric('prorec_model_swap_total{result="rolled_back"}') == 1
        assert first <= engines(one)


def test_what_a_worker_counted_outlives_it(running: Replica) -> None:
    for _ in range(5):
        running.recommend("item-1")
    counted = 'prorec_requests_total{status="200"}'
    wait_until(lambda: running.metric(counted) == 5)  # which is after the answer
    (worker,) = running.children("service.api")
    worker.kill()
    worker.wait()
    wait_until(lambda: bool(running.children("service.api")))
    running.connect(str(running.client.base_url))
    running.recommend("item-1")
    wait_until(lambda: running.metric(counted) == 6)


def test_a_replica_that_starts_without_redis_serves_what_it_served_last_and_then_follows(
    store: Store, redis_server: RedisServer, tmp_path: Path
) -> None:
    with serving(store, tmp_path) as one:
        store.activate("tiny-2")
        one.wait_for(status="ready", model_version="tiny-2")
        wait_until(lambda: any("tiny-2" in path.read_text() for path in tmp_path.glob("last/*/last.json")))
    redis_server.kill()
    with replica(redis_url=store.redis.url, data_dir=tmp_path) as one:
        one.first_line()
        readiness = one.wait_for(status="degraded", model_version="tiny-2")
        assert readiness["notes"]
        assert one.recommend("item-1").headers["X-Model-Version"] == "tiny-2"
        redis_server.start()
        one.wait_for(status="ready", model_version="tiny-2")
        assert one.activate("tiny-1").status_code == 200
        one.wait_for(status="ready", model_version="tiny-1")


def reasons(one: Replica) -> str:
    """Why it answers nothing; empty before it listens."""
    try:
        return " ".join(one.ready()["reasons"])
    except httpx.TransportError:
        return ""


def test_a_replica_that_cannot_read_what_was_hidden_answers_nothing_until_redis_tells(
    store: Store, redis_server: RedisServer, tmp_path: Path
) -> None:
    with serving(store, tmp_path) as one:
        hidden, address = found(one)[0], one.client.base_url
        store.change_items([ItemChange(hidden, available=False)])
        wait_until(lambda: one.metric("prorec_catalog_revision") == 1)
    (catalog,) = tmp_path.glob("last/*/*catalog*")
    catalog.write_bytes(catalog.read_bytes()[:-1])
    redis_server.kill()
    with replica(redis_url=store.redis.url, data_dir=tmp_path, port=address.port) as one:
        one.connect(str(address))
        wait_until(lambda: str(catalog) in reasons(one))
        wait_until(lambda: bool(one.children("service.engine")))
        assert one.recommend("item-1").json()["code"] == "not_ready"
        redis_server.start()
        one.wait_for(status="ready", model_version="tiny-1")
        assert hidden not in found(one)


def test_a_replica_that_starts_at_a_redis_that_has_lost_everything_serves_what_it_served_last(
    store: Store, first: Artifact, tmp_path: Path
) -> None:
    with serving(store, tmp_path) as one:
        hidden = found(one)[0]
        store.change_items([ItemChange(hidden, available=False)])
        wait_until(lambda: one.metric("prorec_catalog_revision") == 1)
        wait_until(lambda: any("tiny-1" in path.read_text() for path in tmp_path.glob("last/*/last.json")))
    store.redis.client.flushall()
    with replica(redis_url=store.redis.url, data_dir=tmp_path) as one:
        one.first_line()
        readiness = one.wait_for(status="degraded", model_version="tiny-1")
        assert readiness["redis"]["state"] == "lost"
        assert hidden not in found(one)
        store.publish(first)
        store.activate("tiny-1")
        wait_until(lambda: one.ready()["redis"]["state"] == "ok")
        assert hidden not in found(one)


def test_what_redis_has_lost_is_put_back_and_what_was_hidden_stays_hidden_throughout(
    store: Store, tmp_path: Path
) -> None:
    with serving(store, tmp_path) as one:
        store.activate("tiny-2")
        one.wait_for(status="ready", model_version="tiny-2")
        hidden, other = found(one)[:2]
        hide = {"items": [{"item_id": hidden, "available": False}], "wait_ms": 60_000}
        assert one.patch(hide).status_code == 200
        store.redis.client.flushall()
        wait_until(lambda: one.ready()["redis"]["state"] == "lost")
        hide_another = {"items": [{"item_id": other, "available": False}], "wait_ms": 60_000}
        assert one.patch(hide_another).json()["code"] == "catalog_lost"
        wait_until(lambda: any(hidden in path.read_text("latin-1") for path in tmp_path.glob("last/*/*catalog*")))
        assert len(restore(store, tmp_path)) == 4
        one.wait_for(status="ready", model_version="tiny-2")
        assert one.patch(hide_another).json()["catalog_revision"] == 2
        assert not {hidden, other} & set(found(one))
        assert one.metric("prorec_engine_restarts_total") == 0
        assert one.activate("tiny-1").status_code == 200
        one.wait_for(status="ready", model_version="tiny-1")
        assert not {hidden, other} & set(found(one))


def test_hidden_items_stay_hidden_where_a_model_is_activated_by_hand_after_a_flush(
    store: Store, first: Artifact, tmp_path: Path
) -> None:
    with serving(store, tmp_path) as one:
        hidden = found(one)[0]
        store.change_items([ItemChange(hidden, available=False), ItemChange("new", item={"item_id": "new"})])
        wait_until(lambda: one.metric("prorec_catalog_revision") == 1)
    store.redis.client.flushall()
    store.publish(first)
    store.activate("tiny-1")
    with replica(redis_url=store.redis.url, data_dir=tmp_path) as one:
        one.first_line()
        (note,) = one.wait_for(status="degraded", model_version="tiny-1")["notes"]
        assert "lost the changes of the catalog" in note
        assert hidden not in found(one)
        assert one.patch({"items": [{"item_id": hidden, "available": True}]}).json()["code"] == "catalog_lost"
    assert "catalog: put back as of revision 1, items changed: 2" in restore(store, tmp_path)
    assert not store.catalog_records([hidden])[hidden].available


def test_a_redis_that_takes_no_changes_is_told_as_long_as_it_takes_none(running: Replica, store: Store) -> None:
    store.redis.client.config_set("min-replicas-to-write", 1)
    (note,) = running.wait_for(status="degraded", model_version="tiny-1")["notes"]
    assert "takes no changes now: NOREPLICAS" in note
    store.redis.client.config_set("min-replicas-to-write", 0)
    assert running.wait_for(status="ready")["notes"] == []


def test_a_replica_with_nothing_cached_does_not_start_without_redis(tmp_path: Path) -> None:
    with replica(redis_url=f"unix://{tmp_path}/nobody", data_dir=tmp_path) as one:
        assert one.process.wait() == 1
