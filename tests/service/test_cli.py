"""The command line: what it prints, and one sentence with exit status 1 for what goes wrong."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.__main__ import app
from service.store import Canary, Deployment, ReplicaReport, Store
from tests.service.plain_artifact import plain_artifact


def run(store: Store, *words: str, **variables: str) -> Result:
    environment = {"PROREC_REDIS_URL": store.redis.url, "PROREC_NAMESPACE": store.keys.namespace} | variables
    return CliRunner().invoke(app, words, env=environment)


def refusal(result: Result, code: int = 1) -> str:
    """The one sentence of a command that failed."""
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    return line


def test_a_model_is_published_activated_and_listed(store: Store, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        published = run(store, "publish", str(plain_artifact(tmp_path, version).folder))
        assert published.exit_code == 0
        assert published.stdout.startswith(f"published {version}: 0.0 MB in Redis at unix:///")
    assert run(store, "activate", "v1").stdout == "active: v1 (change 1)\n"
    assert run(store, "activate", "v2", "--if-active", "v1").stdout == "active: v2 (change 2, before it v1)\n"
    head, newest, oldest = run(store, "models").stdout.splitlines()
    assert head.split() == ["VERSION", "ITEMS", "SIZE", "PUBLISHED", "ROLE"]
    assert newest.split()[:3] == ["*", "v2", "8"]
    assert oldest.split()[:2] == ["v1", "8"]
    assert run(store, "rollback").stdout == "active: v1 (change 3)\n"
    assert run(store, "delete", "v2").stdout == "deleted v2\n"
    assert store.deployment() == Deployment("v1", 3, (), reason="rollback")


def test_what_is_published_already_is_not_said_to_be_sent(store: Store, tmp_path: Path) -> None:
    folder = str(plain_artifact(tmp_path).folder)
    run(store, "publish", folder)
    again = run(store, "publish", folder, "--activate").stdout.splitlines()
    assert again[0].startswith("v1 is published already: all of its 0.0 MB are in Redis at unix:///")
    assert again[1] == "active: v1 (change 1)"


def test_publish_and_activate_in_one_go(store: Store, tmp_path: Path) -> None:
    result = run(store, "publish", str(plain_artifact(tmp_path).folder), "--activate")
    assert result.stdout.splitlines()[1] == "active: v1 (change 1)"


def test_a_rollback_goes_as_far_as_wanted(store: Store, tmp_path: Path) -> None:
    for version in ("v1", "v2", "v3", "v4"):
        run(store, "publish", str(plain_artifact(tmp_path, version).folder), "--activate")
    assert run(store, "rollback", "--to", "v3").stdout == "active: v3 (change 5, before it v2)\n"
    assert run(store, "rollback", "--steps", "2", "--if-active", "v3").stdout == "active: v1 (change 6)\n"
    assert refusal(run(store, "rollback", "--to", "v4")).startswith("error: version v4 is not among those that served")
    assert run(store, "rollback", "--to", "v1", "--steps", "1").exit_code == 2


@pytest.fixture
def three(store: Store, tmp_path: Path) -> Store:
    """v1, v2 and v3 are published, v1 is active."""
    for version in ("v1", "v2", "v3"):
        store.publish(plain_artifact(tmp_path, version))
    store.activate("v1")
    return store


def test_traffic_is_shown_shared_and_ended(three: Store) -> None:
    assert run(three, "traffic").stdout == "active: v1\n"
    shared = run(three, "traffic", "--canary", "v2", "--percent", "12.5")
    assert shared.stdout == "active: v1\ncanary: v2, for 12.5 % of the users\n"
    both = shared.stdout + "shadow: v3\n"
    assert run(three, "traffic", "--shadow", "v3").stdout == run(three, "traffic").stdout == both
    assert run(three, "traffic", "--clear", "--shadow", "v3").stdout == "active: v1\nshadow: v3\n"
    assert run(three, "traffic", "--clear").stdout == "active: v1\n"
    assert three.deployment() == Deployment("v1", 5, reason="traffic")


def test_traffic_that_cannot_be_shared_is_one_sentence(three: Store) -> None:
    for words, sentence in (
        (["--canary", "v1", "--percent", "10"], "error: the active version cannot be its own canary"),
        (["--canary", "v2", "--percent", "0"], "error: the canary's percent is 0; it must be above 0"),
        (["--shadow", "v9"], "error: no version named 'v9' is published"),
    ):
        assert refusal(run(three, "traffic", *words)).startswith(sentence)
    assert run(three, "traffic", "--canary", "v2").exit_code == 2


def test_versions_are_loaded_and_unloaded(three: Store) -> None:
    run(three, "load", "v2")
    assert run(three, "load", "v3").stdout == "kept loaded: v2, v3\n"
    assert (
        refusal(run(three, "delete", "v2"))
        == "error: version v2 is loaded for an operator; end that before deleting it"
    )
    assert run(three, "unload", "v2").stdout == "kept loaded: v3\n"
    assert run(three, "unload", "v3").stdout == "kept loaded: nothing\n"


def test_models_say_what_they_are_for(three: Store) -> None:
    three.activate("v2")
    three.set_traffic(Canary("v3", 5.0), None)
    three.pin("v3")
    rows = [line.split("UTC")[1].strip() for line in run(three, "models").stdout.splitlines()[1:]]
    assert rows == ["canary 5 %, loaded", "active", "served before"]


def test_waiting_ends_when_the_replicas_follow(three: Store) -> None:
    three.report(ReplicaReport("r-1", "http://a:1", epoch=9, serving="v2", ready_for=("v2", "v1"), catalog_revision=3))
    answer = run(three, "activate", "v2", "--wait")
    assert answer.stdout.splitlines() == ["active: v2 (change 2, before it v1)", "1 replica serves v2"]
    late = run(three, "rollback", "--wait", "--timeout-s", "0.2")
    assert (late.exit_code, late.stdout) == (1, "active: v1 (change 3)\n")
    assert late.stderr == "error: 1 of 1 replicas do not serve version v1 yet: r-1 at http://a:1: unknown, v2 answers\n"


def test_replicas_show_what_they_answer_with_and_how_far_they_are(three: Store) -> None:
    three.activate("v2")
    three.set_traffic(Canary("v3", 5.0), None)
    for replica, serving, states in (
        ("a", "v1", {"v1": "active", "v2": "loading"}),
        ("b", "v2", {"v2": "active"}),
        ("c", "v3", {}),
        ("d", None, {}),
    ):
        three.report(ReplicaReport(replica, f"http://{replica}", 9, serving, ("v2", "v1"), 3, states))
    head, *rows = [line.split() for line in run(three, "replicas").stdout.splitlines()]
    assert head == ["REPLICA", "ADDRESS", "SERVES", "ROLE", "READY", "FOR", "CHANGE", "CATALOG", "STATE"]
    assert rows == [
        ["a", "http://a", "v1", "served", "before", "v2", "v1", "9", "3", "v2:", "loading"],
        ["b", "http://b", "v2", "active", "v2", "v1", "9", "3", "active"],
        ["c", "http://c", "v3", "canary", "5", "%", "v2", "v1", "9", "3", "v2:", "unknown"],
        ["d", "http://d", "-", "-", "v2", "v1", "9", "3", "v2:", "unknown"],
    ]
    listed = json.loads(run(three, "replicas", "--json").stdout)
    assert [(row["serving"], row["roles"]) for row in listed] == [
        ("v1", ["previous"]), ("v2", ["active"]), ("v3", ["canary"]), (None, []),
    ]  # fmt: skip


def test_replicas_that_run_before_a_version_is_active_wait(store: Store) -> None:
    store.report(ReplicaReport("a", "http://a", 0))
    assert run(store, "replicas").stdout.splitlines()[1].split() == [
        "a",
        "http://a",
        "-",
        "-",
        "-",
        "0",
        "0",
        "waiting",
    ]


def test_without_replicas_waiting_ends_with_one_sentence_and_the_activation_stands(
    store: Store, tmp_path: Path
) -> None:
    folder = str(plain_artifact(tmp_path).folder)
    assert run(store, "publish", folder, "--wait").exit_code == 2
    for words in (["publish", folder, "--activate"], ["activate", "v1"]):
        told = run(store, *words, "--wait", "--timeout-s", "0.1")
        assert (told.exit_code, told.stdout.splitlines()[-1]) == (1, "active: v1 (change 1)")
        assert (
            told.stderr == "error: no replica is running, so none answers with version v1 yet; those that start will\n"
        )
    assert run(store, "replicas").stdout == "no replica is running\n"


def test_events_tell_what_happened_and_why(three: Store) -> None:
    three.activate("v2")
    three.pin("v3")
    three.set_traffic(Canary("v3", 5.0), None)
    three.rollback(reason="automatic rollback: 7 % of the answers failed")
    head, *rows = run(three, "events").stdout.splitlines()
    assert head.split() == ["WHEN", "CHANGE", "FROM", "TO", "WHY"]
    assert [row.split("UTC")[1].split() for row in rows] == [
        ["5", "v2", "v1", "automatic", "rollback:", "7", "%", "of", "the", "answers", "failed"],
        ["4", "v2", "v2", "traffic:", "canary:", "v3,", "for", "5", "%", "of", "the", "users"],
        ["3", "v2", "v2", "load:", "v3", "kept", "loaded"],
        ["2", "v1", "v2", "activate"],
        ["1", "-", "v1", "activate"],
    ]
    (newest,) = json.loads(run(three, "events", "--json", "--limit", "1").stdout)
    assert (newest["automatic"], newest["from"], newest["version"], newest["epoch"]) == (True, "v2", "v1", 5)


def test_nothing_happened_yet(store: Store) -> None:
    assert run(store, "events").stdout == "nothing was ever changed\n"
    assert run(store, "traffic").stdout == "no version is active\n"


def test_models_as_json(store: Store, tmp_path: Path) -> None:
    run(store, "publish", str(plain_artifact(tmp_path).folder))
    listed = json.loads(run(store, "models", "--json").stdout)
    assert listed["active"] is None
    assert listed["versions"][0]["version"] == "v1"


def test_an_empty_store_is_told(store: Store) -> None:
    assert run(store, "models").stdout == f"no models are published in Redis at {store.redis}\n"
    assert json.loads(run(store, "models", "--json").stdout) == {"active": None, "versions": []}


@pytest.mark.parametrize("words", [["models"], ["events"], ["activate", "v1"], ["publish", "nowhere"]])
def test_where_nothing_was_ever_published_no_redis_is_made(words: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, words, env={"PROREC_DATA_DIR": str(tmp_path), "PROREC_REDIS_URL": None})
    assert result.exit_code == (1 if "publish" in words else 2)
    assert result.stderr.startswith(f"error: {words[-1] if 'publish' in words else tmp_path} ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["publish", "nowhere"], "error: nowhere is not an artifact: it has no manifest.json"),
        (["activate", "v9"], "error: no version named 'v9' is published"),
        (["activate", "v9", "--if-active", "v1"], "error: another change came first: nothing is active now"),
        (["activate", "ü"], "error: no such version can exist: model version 'ü' must be"),
        (["rollback"], "error: no earlier version is left to roll back to"),
        (["rollback", "--to", "v9"], "error: no version named 'v9' is published"),
        (["delete", "v9"], "error: no version named 'v9' is published"),
        (["load", "v9"], "error: no version named 'v9' is published"),
        (["unload", "v9"], "error: no version named 'v9' is published"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], sentence: str, store: Store) -> None:
    assert refusal(run(store, *words)).startswith(sentence)


def test_a_condition_can_say_that_nothing_is_active(store: Store, tmp_path: Path) -> None:
    run(store, "publish", str(plain_artifact(tmp_path).folder))
    assert run(store, "activate", "v1", "--if-active", "none").exit_code == 0
    assert "version v1 is active now" in refusal(run(store, "activate", "v1", "--if-active", "none"))


def test_a_bad_setting_is_one_sentence(store: Store) -> None:
    assert refusal(run(store, "models", PROREC_PORT="x"), 2).startswith("error: PROREC_PORT=x: ")


def test_a_misspelt_setting_is_a_warning(store: Store) -> None:
    result = run(store, "models", PROREC_REDIS_ULR="x")
    assert result.stderr == "warning: PROREC_REDIS_ULR is not a setting; did you mean PROREC_REDIS_URL?\n"
    assert result.exit_code == 0


@pytest.mark.parametrize("words", [["no-such-command"], ["activate"], ["publish"], ["models", "--loud"]])
def test_wrong_usage_is_exit_status_2(words: list[str], store: Store) -> None:
    assert run(store, *words).exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        "",
        "serve",
        "publish",
        "activate",
        "rollback",
        "load",
        "unload",
        "traffic",
        "delete",
        "models",
        "replicas",
        "events",
    ],
)
def test_help_explains_itself(command: str, store: Store) -> None:
    result = run(store, *filter(None, [command]), "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 5


def test_the_version_is_that_of_the_package_and_nothing_is_started() -> None:
    result = CliRunner().invoke(app, ["--version"], env={"PROREC_REDIS_URL": "nonsense"})
    assert (result.exit_code, result.output) == (0, f"{metadata.version('prorec-serve')}\n")


def start(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROREC_")}
    environment |= {"PROREC_DATA_DIR": str(folder), "PROREC_PORT": "0"} | variables
    program = [sys.executable, "-m", "service", *words]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("redis://:hunter2@127.0.0.1:1", 1),
        ("unix:///nowhere/redis?password=hunter2", 1),
        ("mysql://hunter2", 2),
        ("nonsense", 2),
    ],
)
def test_serving_from_a_wrong_redis_is_one_sentence_and_leaves_nothing(url: str, code: int, tmp_path: Path) -> None:
    ended = start(tmp_path / "var", PROREC_REDIS_URL=url)
    assert (ended.returncode, ended.stdout) == (code, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert "hunter2" not in line
    assert not (tmp_path / "var").exists()


def test_a_precision_that_cannot_be_had_here_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    ended = start(tmp_path / "var", PROREC_PRECISION="fp16", PROREC_PROVIDER="cpu", PROREC_PRECISON="int8")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "warning: PROREC_PRECISON is not a setting; did you mean PROREC_PRECISION?",
        "the service could not start: PROREC_PRECISION=fp16: fp16 is for GPUs, and the provider is cpu",
    ]
    assert not (tmp_path / "var").exists()


def test_without_a_redis_url_commands_share_the_data_folder(tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    assert start(tmp_path / "var", "publish", str(artifact.folder), "--activate").returncode == 0
    listed = start(tmp_path / "var", "models").stdout
    assert listed.splitlines()[1].split()[:2] == ["*", "v1"]


def test_what_is_no_folder_of_an_artifact_is_one_sentence(store: Store, tmp_path: Path) -> None:
    (tmp_path / "odd" / "manifest.json").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("odd", "file", "nowhere"):
        assert "is not an artifact" in refusal(run(store, "publish", str(tmp_path / name)))


def test_a_file_that_cannot_be_written_is_one_sentence(store: Store, tmp_path: Path) -> None:
    sentence = refusal(run(store, "openapi", "--output", str(tmp_path / "nowhere" / "openapi.json")))
    assert "No such file or directory" in sentence
