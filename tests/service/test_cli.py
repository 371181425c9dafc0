"""The command line: what it prints, and one sentence with exit status 1 for what goes wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.__main__ import app
from service.store import Deployment, Store
from tests.service.plain_artifact import plain_artifact


def run(store: Store, *words: str, **variables: str) -> Result:
    environment = {"PROREC_REDIS_URL": store.url, "PROREC_NAMESPACE": store.keys.namespace} | variables
    return CliRunner().invoke(app, words, env=environment)


def refusal(result: Result) -> str:
    """The one sentence of a command that failed."""
    assert (result.exit_code, result.stdout) == (1, "")
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


def test_publish_and_activate_in_one_go(store: Store, tmp_path: Path) -> None:
    result = run(store, "publish", str(plain_artifact(tmp_path).folder), "--activate")
    assert result.stdout.splitlines()[1] == "active: v1 (change 1)"


def test_models_as_json(store: Store, tmp_path: Path) -> None:
    run(store, "publish", str(plain_artifact(tmp_path).folder))
    listed = json.loads(run(store, "models", "--json").stdout)
    assert listed["active"] is None
    assert listed["versions"][0]["version"] == "v1"


def test_an_empty_store_is_told(store: Store) -> None:
    assert run(store, "models").stdout == "no models are published\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["publish", "nowhere"], "error: nowhere is not an artifact: it has no manifest.json"),
        (["activate", "v9"], "error: no version named 'v9' is published"),
        (["activate", "v9", "--if-active", "v1"], "error: another change came first: nothing is active now"),
        (["activate", "ü"], "error: no such version can exist: model version 'ü' must be"),
        (["rollback"], "error: no earlier version is left to roll back to"),
        (["delete", "v9"], "error: no version named 'v9' is published"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], sentence: str, store: Store) -> None:
    assert refusal(run(store, *words)).startswith(sentence)


def test_a_condition_can_say_that_nothing_is_active(store: Store, tmp_path: Path) -> None:
    run(store, "publish", str(plain_artifact(tmp_path).folder))
    assert run(store, "activate", "v1", "--if-active", "none").exit_code == 0
    assert "version v1 is active now" in refusal(run(store, "activate", "v1", "--if-active", "none"))


def test_a_bad_setting_is_one_sentence(store: Store) -> None:
    assert refusal(run(store, "models", PROREC_PORT="x")).startswith("error: PROREC_PORT=x: ")


def test_a_misspelt_setting_is_a_warning(store: Store) -> None:
    result = run(store, "models", PROREC_REDIS_ULR="x")
    assert result.stderr == "warning: PROREC_REDIS_ULR is not a setting; did you mean PROREC_REDIS_URL?\n"
    assert result.exit_code == 0


@pytest.mark.parametrize("words", [["no-such-command"], ["activate"], ["publish"], ["models", "--loud"]])
def test_wrong_usage_is_exit_status_2(words: list[str], store: Store) -> None:
    assert run(store, *words).exit_code == 2


@pytest.mark.parametrize("words", [[], ["serve"], ["publish"], ["activate"], ["rollback"], ["models"], ["delete"]])
def test_help_explains_itself(words: list[str], store: Store) -> None:
    result = run(store, *words, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 5


def start(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROREC_")}
    environment |= {"PROREC_DATA_DIR": str(folder), "PROREC_PORT": "0"} | variables
    program = [sys.executable, "-m", "service", *words]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@127.0.0.1:1", "unix:///nowhere/redis?password=hunter2", "mysql://hunter2", "nonsense"]
)
def test_serving_from_a_wrong_redis_is_one_sentence_and_leaves_nothing(url: str, tmp_path: Path) -> None:
    ended = start(tmp_path / "var", PROREC_REDIS_URL=url)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert "hunter2" not in line
    assert not (tmp_path / "var").exists()


def test_without_a_redis_url_commands_share_the_data_folder(tmp_path: Path) -> None:
    artifact = plain_artifact(tmp_path)
    assert start(tmp_path / "var", "publish", str(artifact.folder), "--activate").returncode == 0
    listed = start(tmp_path / "var", "models").stdout
    assert listed.splitlines()[1].split()[:2] == ["*", "v1"]
