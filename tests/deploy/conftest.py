"""A real replica with two tiny models, for load tests of every kind."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.artifact import Artifact
from service.store import Store
from tests.e2e.replica import TOKEN, RedisServer, Replica, replica, wait_until

LoadTest = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="package")
def loaded_replica(
    open_to_new_items: Artifact, another_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replica]:
    """Serves tiny-1, which takes new items as text; tiny-2 is published too."""
    with tempfile.TemporaryDirectory(prefix="l-") as folder:
        server = RedisServer(Path(folder))
        wait_until(server.socket.exists)
        store = Store.connect(server.url, "prorec")
        for artifact in (open_to_new_items, another_artifact):
            store.publish(artifact)
        store.activate(open_to_new_items.manifest.model_version)
        with replica(redis_url=server.url, data_dir=tmp_path_factory.mktemp("replica")) as started:
            started.first_line()
            yield started
        store.close()
        server.kill()


def begin(scenario: str, *words: str) -> "subprocess.Popen[str]":
    """`python -m deploy.load_test` as its own process; it knows the replica's token where the scenario needs one."""
    command = [sys.executable, "-m", "deploy.load_test", scenario, *words]
    own = {name: value for name, value in os.environ.items() if name != "PROREC_ADMIN_TOKEN"}
    if scenario in ("swap", "canary", "churn"):
        own["PROREC_ADMIN_TOKEN"] = TOKEN
    return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def load_test(loaded_replica: Replica, tmp_path: Path) -> LoadTest:
    """Runs a scenario on the replica: its exit code, its report ({}: none was written), and what it printed."""

    def run(scenario: str, *words: str) -> tuple[int, dict[str, Any], str]:
        path = tmp_path / "report.json"
        address = str(loaded_replica.client.base_url).rstrip("/")
        common = ("--address", address, "--synthetic", "--histories", "20", "--k", "4", "--warm-up-s", "0.5")
        process = begin(scenario, *common, "--slo-ms", "5000", "--json", str(path), *words)
        printed = "".join(process.communicate())
        return process.returncode, json.loads(path.read_text()) if path.exists() else {}, printed

    return run
