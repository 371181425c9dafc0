"""Every scenario of the load test, as a command on a real replica with tiny models."""

import json
import os
import platform
import re
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.load.circumstances import cpu_model
from tests.e2e.replica import TOKEN, Replica, wait_until

from .conftest import LoadTest, begin

pytestmark = pytest.mark.timeout(
    400
)  # the first of them exports two models and starts a replica, on machines that are busy


def test_steady_load_holds_a_generous_slo(load_test: LoadTest) -> None:
    code, report, printed = load_test("steady", "--rate", "40", "--seconds", "2")
    assert code == 0, printed
    assert report["slo"] == {"held": True, "breaches": []}
    assert report["total"]["by_version"] == {"tiny-1": report["total"]["answered"]}
    assert 40 < report["total"]["answered"] < 130  # 80 are expected
    assert sum(row["rate_per_s"] for row in report["windows"]) * report["window_s"] >= report["total"]["answered"]


def test_a_report_says_when_where_and_of_what_it_is(load_test: LoadTest, loaded_replica: Replica) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    _, report, printed = load_test("steady", "--rate", "20", "--seconds", "1")
    version = loaded_replica.client.get("/version").json()
    assert before <= datetime.fromisoformat(report["begun"]) <= datetime.now(UTC)
    assert report["machine"] == {"cpu": cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()}
    assert report["service"] == {
        **{name: version[name] for name in ("service", "python", "onnxruntime", "provider", "precision")},
        "model_version": "tiny-1",
        "canary_version": None,
    }
    assert f"service {version['service']}, {version['provider']} fp32, model tiny-1" in printed
    assert report["total"]["p50_ms"] <= report["total"]["p90_ms"] <= report["total"]["p95_ms"]
    assert f", p90 {report['total']['p90_ms']}, " in printed


def test_off_a_terminal_progress_is_plain_lines(load_test: LoadTest) -> None:
    _, _, printed = load_test("steady", "--rate", "20", "--seconds", "3", "--progress-s", "0.5")
    lines = re.findall(
        r"^\d+ s: \d+ answered, 0 failed, 0 inconsistent; now p50 \S+, p99 \S+ ms$", printed, re.MULTILINE
    )
    assert len(lines) >= 3
    assert "\x1b" not in printed


def test_an_slo_that_no_service_holds_is_exit_code_one(load_test: LoadTest) -> None:
    code, report, _ = load_test("steady", "--rate", "40", "--seconds", "1", "--slo-ms", "0.1")
    assert code == 1
    assert "above 0.1 ms" in report["slo"]["breaches"][0]


def test_refused_requests_are_failures(load_test: LoadTest) -> None:
    words = ("steady", "--rate", "40", "--seconds", "1", "--item-ids", "item-{}", "--k", "5000")  # k beyond every beam
    code, report, _ = load_test(*words)
    assert code == 1
    assert report["total"]["answered"] == 0
    assert set(report["total"]["failed"]) == {"422"}


def test_a_ramp_finds_a_rate_and_measures_its_clients(load_test: LoadTest) -> None:
    words = ("--start", "20", "--most", "40", "--window-s", "0.5", "--echo")
    code, report, printed = load_test("ramp", *words)
    assert code == 0, printed
    assert report["findings"]["service"]["highest_per_s"] == 40
    assert report["findings"]["clients"]["highest_per_s"] == 40


def test_a_ramp_below_what_is_wanted_is_exit_code_one(load_test: LoadTest) -> None:
    code, report, _ = load_test("ramp", "--start", "20", "--most", "20", "--window-s", "0.5", "--at-least", "30")
    assert code == 1
    assert report["slo"]["breaches"] == ["the highest rate is 20.0/s, below 30/s"]


def test_a_spike_is_told_apart_from_what_is_around_it(load_test: LoadTest) -> None:
    times = ("--before-s", "1", "--spike-s", "1", "--recover-s", "1", "--after-s", "1")
    code, report, printed = load_test("spike", "--rate", "20", "--peak", "120", *times)
    assert code == 0, printed
    answered = {part: report["findings"][part]["answered"] for part in ("before", "spike", "recovery", "after")}
    assert answered["spike"] > 2 * max(answered["before"], answered["after"])


def test_a_soak_watches_the_memory_of_the_whole_replica(load_test: LoadTest, loaded_replica: Replica) -> None:
    limits = ("--max-latency-growth", "50", "--max-memory-growth", "3")
    code, report, printed = load_test("soak", "--rate", "20", "--seconds", "8", *limits)
    assert code == 0, printed
    memory = report["findings"]["memory"]
    assert memory["process"] == loaded_replica.process.pid
    assert len(memory["mb"]) > 4
    assert all(mb > 50 for _, mb in memory["mb"])
    sizes = {row["name"]: row["mb"] for row in memory["processes"]}
    assert sizes.keys() >= {"service", "service.api", "service.engine", "service.reader", "service.fork_server"}
    assert all(first > 1 and last > 1 for first, last in sizes.values())
    assert report["findings"]["p50_growth"] > 0


def test_swaps_under_load_are_marked_checked_and_undone(load_test: LoadTest, loaded_replica: Replica) -> None:
    words = ("--versions", "tiny-2,tiny-1", "--rate", "40", "--seconds", "4", "--every-s", "0.7")
    code, report, printed = load_test("swap", *words)
    assert code == 0, printed
    assert report["findings"]["swaps"] >= 2
    assert set(report["total"]["by_version"]) == {"tiny-1", "tiny-2"}
    assert {moment["text"] for moment in report["moments"]} == {"activate tiny-1", "activate tiny-2"}
    assert loaded_replica.ready()["model_version"] == "tiny-1"


def test_a_swap_gives_the_canary_its_share_back(load_test: LoadTest, loaded_replica: Replica) -> None:
    client, headers = loaded_replica.client, {"Authorization": f"Bearer {TOKEN}"}
    canary = {"version": "tiny-2", "percent": 50.0}
    client.put("/traffic", json={"canary": canary, "shadow": None}, headers=headers).raise_for_status()
    try:
        words = ("--versions", "tiny-1,tiny-2", "--rate", "40", "--seconds", "2", "--every-s", "0.7")
        code, _, printed = load_test("swap", *words)
        assert code == 0, printed
        assert client.get("/traffic", headers=headers).json()["canary"] == canary
        assert loaded_replica.ready()["model_version"] == "tiny-1"
    finally:
        client.put("/traffic", json={}, headers=headers).raise_for_status()
        loaded_replica.wait_for(canary_version=None)


def test_a_canary_gets_its_share_and_is_ended(load_test: LoadTest, loaded_replica: Replica) -> None:
    words = ("--version", "tiny-2", "--percents", "50", "--rate", "60", "--seconds", "3")
    code, report, printed = load_test("canary", *words)
    assert code == 0, printed
    (share,) = report["findings"]["shares"]
    assert 20 < share["measured_percent"] < 80
    assert loaded_replica.ready()["canary_version"] is None


def test_what_is_hidden_or_removed_under_load_does_not_come_back(load_test: LoadTest, loaded_replica: Replica) -> None:
    code, report, printed = load_test("churn", "--rate", "60", "--seconds", "3", "--items", "3", "--every-ms", "50")
    assert code == 0, printed
    assert report["findings"]["sightings_of_watched_items"] > 10
    assert {moment["text"].split()[0] for moment in report["moments"]} == {"hide", "show", "add", "remove"}

    def as_before() -> bool:
        shown = loaded_replica.client.get("/items", params={"limit": 1000}).json()["items"]
        return all(item["available"] and not item["added"] for item in shown)

    wait_until(as_before)  # the reader hears of it a moment later than the engine


def test_a_churn_that_may_add_nothing_leaves_nothing(load_test: LoadTest, loaded_replica: Replica) -> None:
    """The model that serves takes no text, which the service says when the first item was hidden and shown."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    revision = loaded_replica.client.get("/catalog/changes", headers=headers).json()["catalog_revision"]
    loaded_replica.activate("tiny-2")
    loaded_replica.wait_for(model_version="tiny-2")
    try:
        code, _, printed = load_test("churn", "--rate", "60", "--seconds", "600", "--items", "3")
        assert code in (1, 2), printed  # whether something was measured by then is a matter of moments
        assert "POST /catalog/items is" in printed
        query = {"since": revision}
        changed = loaded_replica.client.get("/catalog/changes", params=query, headers=headers).json()["items"]
        assert [(item["available"], item["removed"]) for item in changed] == [(True, False)]
    finally:
        loaded_replica.activate("tiny-1")
        loaded_replica.wait_for(model_version="tiny-1")


def test_the_clients_alone_need_no_service(load_test: LoadTest) -> None:
    words = ("--address", "http://127.0.0.1:1", "--start", "50", "--most", "50", "--window-s", "0.5")
    code, report, printed = load_test("clients", *words)
    assert code == 0, printed
    assert report["findings"]["clients"]["highest_per_s"] == 50
    assert set(report["total"]["by_version"]) == {"echo"}
    assert report["service"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("swap", "--versions", "tiny-1,tiny-9"), "tiny-9"),
        (("swap", "--versions", "tiny-1"), "two or more"),
        (("canary", "--version", "tiny-1"), "active version"),
        (("canary", "--version", "tiny-2", "--percents", "none"), "numbers above 0"),
        (("steady", "--address", "http://127.0.0.1:1"), "no service answers"),
    ],
)
def test_what_cannot_work_is_exit_code_two(load_test: LoadTest, words: tuple[str, ...], sentence: str) -> None:
    code, report, printed = load_test(*words)
    assert code == 2
    assert sentence in printed
    assert not report


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_soak_leaves_what_it_has(
    loaded_replica: Replica, tmp_path: Path, number: signal.Signals
) -> None:
    address, path = str(loaded_replica.client.base_url), tmp_path / "report.json"
    words = ("--address", address, "--synthetic", "--k", "4", "--rate", "40", "--seconds", "600", "--slo-ms", "5000")
    process = begin("soak", *words, "--json", str(path))
    until = loaded_replica.metric("prorec_requests_total") + 200  # beyond the warm-up of 2 s
    wait_until(lambda: loaded_replica.metric("prorec_requests_total") > until)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number, printed + errors
    assert "interrupted: answered" in printed
    assert "the SLO held, until the test was interrupted" in printed
    report = json.loads(path.read_text())
    assert report["interrupted"] is True
    assert report["findings"]["first quarter"]["answered"] == report["total"]["answered"] > 100
    assert report["windows"]
    assert report["clients"]["busiest"] > 0


@pytest.mark.parametrize("name", ["plot.png", "plot.html"])
def test_a_plot_is_one_file(load_test: LoadTest, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    code, _, printed = load_test("steady", "--rate", "20", "--seconds", "1", "--plot", str(path))
    assert code == 0, printed
    content = path.read_bytes()
    if name.endswith("png"):
        assert content.startswith(b"\x89PNG")
    else:
        assert b"<svg" in content
        assert b"<script src" not in content
