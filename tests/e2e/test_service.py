"""A whole replica: real processes, real Redis, a real model, and everything that may go wrong with them."""

import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from models.artifact import MANIFEST, Artifact, file_entry
from service.catalog.records import ItemChange
from service.cores import parse
from service.store import Store
from tests.marks import needs_two_cores
from tests.test_operations import errors

from .replica import Load, RedisServer, Replica, replica, wait_until


@pytest.fixture
def running(store: Store, tmp_path: Path) -> Iterator[Replica]:
    """One worker, with the first model loaded."""
    with replica(redis_url=store.redis.url, data_dir=tmp_path) as one:
        one.first_line()
        one.wait_for(status="ready")
        yield one


def with_faulty_golden(artifact: Artifact, folder: Path) -> Artifact:
    """A whole and well-formed model, `tiny-bad`, that does not answer as its golden requests say."""
    golden = artifact.golden()
    for row in golden:
        row["scores"] = [score + 1.0 for score in row["scores"]]
    return with_golden(artifact, folder, golden)


def with_golden(artifact: Artifact, folder: Path, golden: list[dict[str, Any]]) -> Artifact:
    """The same model as `tiny-bad`, with these golden requests."""
    target = folder / "tiny-bad"
    target.mkdir()
    for path in artifact.folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    (target / "golden.json").write_text(json.dumps(golden))
    manifest = json.loads((target / MANIFEST).read_text())
    manifest["model_version"] = "tiny-bad"
    manifest["files"]["golden.json"] = file_entry(target / "golden.json").model_dump()
    (target / MANIFEST).write_text(json.dumps(manifest))
    return Artifact.open(target)


def expected_answers(artifact: Artifact) -> dict[str, list[str]]:
    """Golden histories and their items, as the artifact recorded them at export."""
    return {" ".join(row["history"]): row["items"] for row in artifact.golden()}


def test_what_alerts_ask_about_is_counted_before_it_occurs(redis_server: RedisServer, tmp_path: Path) -> None:
    """A rate sees nothing of the burst that a series is born with."""
    with replica(redis_url=redis_server.url, data_dir=tmp_path) as one:
        one.first_line()
        lines = one.client.get("/metrics").text.splitlines()
    broken = {error.status for error in errors() if error.status >= 500}
    assert {f'prorec_requests_total{{status="{status}"}} 0.0' for status in (200, 429, *broken)} <= set(lines)


# ---- where its processes run


def cores_of(process: psutil.Process) -> set[int]:
    """Cores that every thread of it may use, as the kernel says."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    fields = [dict(line.split(":", 1) for line in (task / "status").read_text().splitlines()) for task in tasks]
    (cores,) = {field["Cpus_allowed_list"].strip() for field in fields}
    return parse(cores)


@needs_two_cores
def test_engines_have_cores_of_their_own(store: Store, tmp_path: Path) -> None:
    *rest, last = sorted(os.sched_getaffinity(0))
    with replica(redis_url=store.redis.url, data_dir=tmp_path, engine_cores=last) as one:
        one.first_line()
        assert cores_of(one.engine()) == {last}
        others = [*one.children("service.api"), *one.children("service.fork_server"), psutil.Process(one.process.pid)]
        assert [cores_of(process) for process in others] == [set(rest)] * 3


def test_cores_that_are_not_there_are_refused_in_one_sentence(store: Store, tmp_path: Path) -> None:
    with replica(redis_url=store.redis.url, data_dir=tmp_path, engine_cores="9999") as one:
        assert one.process.wait() == 2
        wait_until(lambda: bool(one.errors))
    usable = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    refusal = f"PROREC_ENGINE_CORES=9999: this process may not use 9999, only {usable}"
    assert one.errors == [f"the service could not start: {refusal}\n"]


def test_two_replicas_on_one_data_folder_are_refused(store: Store, tmp_path: Path) -> None:
    with replica(redis_url=store.redis.url, data_dir=tmp_path) as one:
        wait_until(lambda: bool(one.children("service.api")))
        with replica(redis_url=store.redis.url, data_dir=tmp_path) as other:
            assert other.process.wait() == 2
            wait_until(lambda: bool(other.errors))
        assert one.end() == 0
    refusal = f"a replica runs on the data folder {tmp_path}: give this one its own PROREC_DATA_DIR"
    assert other.errors == [f"the service could not start: {refusal}\n"]


def test_a_worker_takes_more_connections_than_a_shell_allows_open_files(store: Store, tmp_path: Path) -> None:
    limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
        try:
            running = opened.enter_context(replica(redis_url=store.redis.url, data_dir=tmp_path))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        running.first_line()
        address = running.client.base_url
        for _ in range(400):
            opened.enter_context(closing(socket.create_connection((address.host, address.port))))
        running.wait_for(status="ready")


# ---- answers


def test_a_replica_answers_as_the_model_did_when_it_was_exported(steady: Replica, first: Artifact) -> None:
    for row in first.golden():
        answer = steady.recommend(*row["history"], k=4).json()
        assert [item["item_id"] for item in answer["items"]] == row["items"][:4]
        assert answer["model_version"] == "tiny-1"
        known = {item["item_id"]: item["score"] for item in answer["items"]}
        np.testing.assert_allclose(list(known.values()), row["scores"][:4], atol=1e-3)


def test_every_optional_part_comes_from_the_model(steady: Replica, first: Artifact) -> None:
    wanted = {"history": ["item-1", "nobody"], "k": 3, "return": ["metadata", "codes", "scores", "timings"]}
    answer = steady.client.post("/recommend", json=wanted).json()
    ids = [first.item_ids[index] for index in range(first.manifest.item_count)]
    for item in answer["items"]:
        index = ids.index(item["item_id"])
        assert item["metadata"] == json.loads(first.metadata_json(index))
        assert item["code"] == first.codes.tokens[index].tolist()
        assert item["scores"]["code"] + item["scores"]["item"] == pytest.approx(item["score"])
    assert answer["history"] == {"used": 1, "unknown": 1, "truncated": 0}
    assert answer["timings_ms"]["batch_rows"] == 1


BAD = [
    (b"", 400), (b"{", 400), (b'{"history": [NaN]}', 400), (b'{"history": [], "k": Infinity}', 400),
    (b'{"history": ["\xff"]}', 400), (b'{"history": [], "history": []}', 400), (b"[" * 50_000, 400),
    (b'{"history": ["\\ud800"]}', 400), (b"null", 422), (b"[]", 422), (b"{}", 422), (b'{"history": "a"}', 422),
    (b'{"history": [1]}', 422), (b'{"history": [], "k": 0}', 422), (b'{"history": [], "k": 9}', 422),
    (b'{"history": [], "k": "4"}', 422), (b'{"history": [], "k": 1e400}', 422), (b'{"history": [], "k": true}', 422),
    (b'{"history": [], "beam_width": 9}', 422), (b'{"history": [], "timeout_ms": 60001}', 422),
    (b'{"history": [], "return": ["all"]}', 422), (b'{"history": [], "filter": {}}', 422),
    (b" " * 1_048_577, 413),
]  # fmt: skip


def test_bad_inputs_get_one_clear_problem_each_and_harm_nobody(steady: Replica) -> None:
    for body, status in BAD:
        answer = steady.client.post("/recommend", content=body)
        problem = answer.json()
        assert (answer.status_code, problem["status"]) == (status, status), body[:60]
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert problem["detail"]
        assert problem["request_id"] == answer.headers["X-Request-Id"]
        assert bool(problem.get("errors")) == (status == 422)
    assert steady.recommend("item-1").status_code == 200
    assert steady.metric("prorec_engine_restarts_total") == 0


def test_a_deadline_that_cannot_be_kept_is_504(steady: Replica) -> None:
    steady.engine().send_signal(signal.SIGSTOP)
    answer = steady.client.post("/recommend", json={"history": ["item-1"], "k": 4, "timeout_ms": 50})
    steady.engine().send_signal(signal.SIGCONT)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert steady.recommend("item-1").status_code == 200


# ---- models come and go


def test_without_an_active_model_a_replica_lives_and_says_what_to_do(
    redis_server: RedisServer, first: Artifact, tmp_path: Path
) -> None:
    with replica(redis_url=redis_server.url, data_dir=tmp_path) as one:
        assert "publish" in one.first_line()
        assert one.client.get("/health/live").status_code == 200
        readiness = one.wait_for(status="not_ready", redis=one.ready()["redis"])
        assert "publish" in readiness["reasons"][0]
        assert one.recommend("item-1").status_code == 503
        store = Store.connect(redis_server.url, "prorec")
        store.publish(first)
        store.activate("tiny-1")
        one.wait_for(status="ready", model_version="tiny-1")
        assert one.recommend("item-1").status_code == 200
        store.close()


def test_a_swap_under_load_fails_no_request_and_mixes_no_answers(
    store: Store, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    with replica(redis_url=store.redis.url, data_dir=tmp_path, workers=2, warm_previous=0) as one:
        one.first_line()
        one.wait_for(status="ready")
        rows = itertools.cycle(first.golden() + second.golden())
        asked = iter(lambda: next(rows)["history"], None)

        def ask() -> httpx.Response:
            history = next(asked)
            return one.client.post(
                "/recommend", json={"history": history, "k": 4}, headers={"X-History": " ".join(history)}
            )

        with Load(ask) as load:
            load.more(50)
            old = one.engine()
            assert one.activate("tiny-2").status_code == 200
            one.wait_for(status="ready", model_version="tiny-2")
            old.wait()
            load.more(50)
            assert one.admin("/models/rollback").json()["model_version"] == "tiny-1"
            one.wait_for(status="ready", model_version="tiny-1")
            load.more(50)
        check_load(load, {"tiny-1": first, "tiny-2": second})
        wait_until(lambda: len(one.children("service.engine")) == 1)
        assert one.metric('prorec_model_swap_total{result="success"}') == 3
        assert one.metric("prorec_engine_losses_total") == 0
        assert one.metric("prorec_engine_restarts_total") == 0


def check_load(load: Load, artifacts: dict[str, Artifact]) -> None:
    """Every answer is a 200, and where it has a golden one it is the golden one of the version it names."""
    golden = {version: expected_answers(artifact) for version, artifact in artifacts.items()}
    seen = set()
    for answer in load.answers:
        assert isinstance(answer, httpx.Response)
        assert answer.status_code == 200, answer.text
        version = answer.headers["X-Model-Version"]
        seen.add(version)
        expected = golden[version].get(answer.request.headers["X-History"])
        found = [item["item_id"] for item in answer.json()["items"]]
        assert expected is None or found == expected[:4]
        assert answer.json()["model_version"] == version
    assert seen == set(artifacts)


def test_a_version_that_fails_its_golden_requests_never_serves(
    running: Replica, store: Store, second: Artifact, tmp_path: Path
) -> None:
    store.publish(with_faulty_golden(second, tmp_path))
    engine = running.engine()
    with Load(lambda: running.recommend("item-1")) as load:
        store.activate("tiny-bad")
        readiness = running.wait_for(status="degraded", active_version="tiny-bad", model_version="tiny-1")
        wait_until(lambda: "golden" in json.dumps(running.ready()["notes"]))
        load.more(20)
    assert all(isinstance(answer, httpx.Response) and answer.status_code == 200 for answer in load.answers)
    readiness = running.ready()
    assert readiness["failures"][0]["model_version"] == "tiny-bad"
    assert readiness["failures"][0]["retry_at"] is not None
    assert readiness["staleness_s"] > 0
    rows = {row["model_version"]: row for row in running.models()["models"]}
    assert "golden" in rows["tiny-bad"]["reason"]
    assert rows["tiny-1"]["state"] == "active"
    assert running.metric('prorec_model_swap_total{result="failure"}') >= 1
    assert running.admin("/models/rollback").json()["model_version"] == "tiny-1"
    running.wait_for(status="ready", model_version="tiny-1", failures=[])
    assert running.engine().pid == engine.pid


def test_a_model_that_never_can_be_had_in_8_bits_is_told_once_and_not_tried_again(
    redis_server: RedisServer, first: Artifact, tmp_path: Path
) -> None:
    with (
        replica(redis_url=redis_server.url, data_dir=tmp_path / "var", precision="int8") as one,
        closing(Store.connect(redis_server.url, "prorec")) as store,
    ):
        assert "publish" in one.first_line()
        store.publish(with_golden(first, tmp_path, []))
        store.activate("tiny-bad")
        reason = "the engine could not start: model tiny-bad has no golden requests to convert it by"
        readiness = one.wait_for(status="not_ready", reasons=[f"model tiny-bad failed: {reason}"])
        assert readiness["failures"] == [{"model_version": "tiny-bad", "reason": reason, "retry_at": None}]
        model = one.model("tiny-bad")
        assert (model["state"], model["reason"], model["retry_at"]) == ("failed", reason, None)
        assert one.metric('prorec_model_swap_total{result="failure"}') == 1
        assert one.activate("tiny-bad").status_code == 200  # whoever asks gets another attempt
        wait_until(lambda: one.metric('prorec_model_swap_total{result="failure"}') == 2)
    told = [line for line in one.errors if reason in line]
    assert (
        told
        == [f"ERROR service.supervisor.life: model tiny-bad failed: {reason}; it is not tried again by itself\n"] * 2
    )


def test_a_corrupt_version_is_refused_and_serves_once_it_is_published_again(running: Replica, store: Store) -> None:
    chunk = max(store.redis.client.scan_iter("*tiny-2*"), key=lambda key: size(store, key))
    whole = store.redis.client.get(chunk)
    store.redis.client.set(chunk, b"x" * len(whole))
    assert running.activate("tiny-2").status_code == 200
    wait_until(lambda: "checksum" in json.dumps(running.ready()["notes"]))
    assert running.recommend("item-1").headers["X-Model-Version"] == "tiny-1"
    store.redis.client.set(chunk, whole)
    running.activate("tiny-2")  # again: it is tried at once
    running.wait_for(status="ready", model_version="tiny-2")


def size(store: Store, key: bytes) -> int:
    client: Any = store.redis.client
    return int(client.strlen(key)) if client.type(key) == b"string" else 0


def test_an_activation_that_lost_the_race_says_what_is_active(steady: Replica) -> None:
    headers = {"Authorization": "Bearer a token for tests"}
    answer = steady.client.post("/models/tiny-2/activate", json={"if_active": "tiny-9"}, headers=headers)
    assert (answer.status_code, answer.json()["code"], answer.json()["active"]) == (409, "lost_race", "tiny-1")
    assert steady.activate("nothing-like-it").json()["code"] == "unknown_version"
    assert steady.activate("no/such").status_code == 404
    answer = steady.client.post("/models/tiny-2/activate", json={"if": 1}, headers=headers)
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/if"]


# ---- processes die


def test_an_engine_killed_under_load_fails_no_request(running: Replica) -> None:
    with Load(lambda: running.recommend("item-1")) as load:
        load.more(20)
        dead = running.engine()
        dead.kill()
        wait_until(lambda: running.metric("prorec_engine_restarts_total") == 1)
        running.wait_for(status="ready")
        load.more(20)
    assert [answer.status_code for answer in load.answers if isinstance(answer, httpx.Response)] == [200] * len(
        load.answers
    )
    assert running.engine().pid != dead.pid


def test_a_worker_that_is_killed_is_replaced(running: Replica) -> None:
    (worker,) = running.children("service.api")
    worker.kill()
    worker.wait()
    wait_until(lambda: bool(running.children("service.api")))
    running.connect(str(running.client.base_url))
    running.wait_for(status="ready")
    assert running.recommend("item-1").status_code == 200


def test_without_redis_a_replica_keeps_answering_and_replaces_its_engine(
    running: Replica, redis_server: RedisServer
) -> None:
    redis_server.kill()
    wait_until(lambda: running.ready()["redis"]["state"] == "unreachable")
    readiness = running.client.get("/health/ready")
    assert (readiness.status_code, readiness.json()["status"]) == (200, "degraded")
    assert "keeps answering" in readiness.json()["notes"][0]
    assert running.recommend("item-1").status_code == 200
    assert running.activate("tiny-2").json()["code"] == "store_unavailable"
    assert running.models()["active_version"] == "tiny-1"
    assert running.metric("prorec_catalog_staleness_seconds") > 0
    running.engine().kill()
    wait_until(lambda: running.metric("prorec_engine_restarts_total") == 1)
    running.wait_for(status="degraded")
    assert running.recommend("item-1").status_code == 200
    redis_server.start()
    running.wait_for(status="ready", staleness_s=0.0)
    assert running.activate("tiny-2").status_code == 200
    running.wait_for(status="ready", model_version="tiny-2")


def test_after_a_flush_a_replica_keeps_answering_until_a_model_is_activated_again(
    running: Replica, store: Store, second: Artifact
) -> None:
    store.redis.client.flushall()
    wait_until(lambda: running.ready()["redis"]["state"] == "lost")
    assert running.ready()["status"] == "degraded"
    assert running.recommend("item-1").headers["X-Model-Version"] == "tiny-1"
    store.change_items([ItemChange("item-2", available=False)])
    wait_until(lambda: running.metric("prorec_catalog_revision") == 1)
    assert running.ready()["redis"]["state"] == "lost"
    store.publish(second)
    store.activate("tiny-2")
    running.wait_for(status="ready", model_version="tiny-2")


# ---- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_finishes_what_is_in_flight_and_leaves_nothing(
    store: Store, tmp_path: Path, number: signal.Signals
) -> None:
    with replica(redis_url=store.redis.url, data_dir=tmp_path, workers=2) as one, ThreadPoolExecutor(4) as pool:
        one.first_line()
        one.wait_for(status="ready")
        engine = one.engine()
        words = " ".join(engine.cmdline()).split()
        folder = Path(words[words.index("--socket") + 1]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        engine.suspend()
        asked = [pool.submit(one.recommend, "item-1") for _ in range(4)]
        wait_until(lambda: one.metric("prorec_requests_in_flight") == 4)
        everyone = one.children()
        one.process.send_signal(number)
        wait_until(lambda: one.unready())
        engine.resume()
        assert [answer.result().status_code for answer in asked] == [200] * 4
        assert one.process.wait() == 0
        assert not [child for child in everyone if child.is_running()]
        assert not folder.exists()


def test_while_it_drains_it_hides_what_is_hidden_now(store: Store, tmp_path: Path) -> None:
    """A balancer may take its time to notice, and until then this replica is asked."""
    with replica(redis_url=store.redis.url, data_dir=tmp_path, drain_notice_s=20) as one:
        one.first_line()
        one.wait_for(status="ready")
        hidden = one.recommend("item-1").json()["items"][0]["item_id"]
        one.process.send_signal(signal.SIGTERM)
        wait_until(lambda: one.unready())
        store.change_items([ItemChange(hidden, available=False)])
        wait_until(lambda: hidden not in [item["item_id"] for item in one.recommend("item-1").json()["items"]])
        one.end(signal.SIGKILL)


def test_what_is_hidden_is_not_in_the_last_answer(store: Store, tmp_path: Path) -> None:
    go_on = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b'{"history": '
        go_on.wait()
        yield b'["item-1"], "k": 4}'

    settings = {"redis_url": store.redis.url, "data_dir": tmp_path, "drain_notice_s": 0}
    with replica(**settings) as one, ThreadPoolExecutor(1) as pool, ExitStack() as at_the_end:
        at_the_end.callback(go_on.set)
        one.first_line()
        one.wait_for(status="ready")
        hidden = one.recommend("item-1").json()["items"][0]["item_id"]
        last = pool.submit(httpx.post, one.client.base_url.join("/recommend"), content=slowly(), timeout=60)
        wait_until(lambda: one.metric("prorec_requests_in_flight") == 1)
        one.process.send_signal(signal.SIGTERM)
        wait_until(lambda: one.refuses())
        store.activate("tiny-2")  # for which nothing is started any more
        store.change_items([ItemChange(hidden, available=False)])
        wait_until(lambda: [(report.epoch, report.catalog_revision) for report in store.replicas()] == [(1, 1)])
        go_on.set()
        answer = last.result()
        assert answer.headers["X-Model-Version"] == "tiny-1"
        assert hidden not in [item["item_id"] for item in answer.json()["items"]]
        assert one.process.wait() == 0


def test_the_end_while_an_engine_loads_waits_for_nothing(store: Store, tmp_path: Path) -> None:
    with replica(redis_url=store.redis.url, data_dir=tmp_path) as one:
        wait_until(lambda: bool(one.children("service.engine")))
        one.engine().suspend()
        assert one.end() == 0


def test_with_its_own_redis_a_replica_keeps_its_models_over_a_restart(first: Artifact, tmp_path: Path) -> None:
    variables = {"PROREC_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "service", "publish", str(first.folder), "--activate"]
    subprocess.run(command, env=variables, check=True)
    for _ in range(2):
        with replica(data_dir=tmp_path) as one:
            assert "ready" in one.first_line()
            assert one.recommend("item-1").status_code == 200
            assert any("redis-server" in child.name() for child in psutil.process_iter() if belongs(child, tmp_path))
            assert one.end() == 0
            assert not [child for child in psutil.process_iter() if belongs(child, tmp_path)]


def belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name() == "redis-server" and Path(process.cwd()).is_relative_to(folder)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def test_when_the_supervisor_is_killed_nothing_stays(running: Replica) -> None:
    assert running.end(signal.SIGKILL) == -signal.SIGKILL


def test_a_port_in_use_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with replica(port=port, data_dir=tmp_path) as one:
            assert one.process.wait() == 1
            wait_until(lambda: bool(one.errors))
            assert one.errors == [
                f"the service could not start: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
            ]
