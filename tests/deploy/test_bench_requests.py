"""The report of `deploy.bench_requests` beside what was wanted, and how it finds the processes of a replica."""

import os
import socket
import subprocess
import sys
from typing import Any

import psutil
import pytest
import typer

from deploy.bench_requests import _cores, findings
from deploy.cluster import golden_bodies
from deploy.process_costs import _listens
from models.artifact import Artifact

REPORT: dict[str, Any] = {
    "one_at_a_time": {"http_p50_ms": 2.5, "engine_p50_ms": 1.0, "difference_ms": 1.5},
    "saturation": {
        "ratio": 0.8,
        "http_per_s": 800.0,
        "engine_per_s": 1000.0,
        "cpu_ms": {"worker": 0.6, "engine_outside_run": 0.1},
    },
    "open_loop": {"rate_per_s": 560.0, "p50_ms": 2.0, "p99_ms": 9.0, "p99_to_p50": 4.5},
}


def test_each_figure_stands_beside_its_goal() -> None:
    assert [one.met for one in findings(REPORT, own_cores=False)] == [False, True, None, True, False]


def test_http_is_held_against_the_engine_only_where_each_has_its_cores() -> None:
    assert [one.met for one in findings(REPORT, own_cores=True)] == [False, True, False, True, False]


def test_cores_of_the_client_are_some_of_those_there_are() -> None:
    usable = os.sched_getaffinity(0)
    assert _cores(None) == set()
    for wrong in ("x", ",".join(map(str, usable)), "9999"):
        with pytest.raises(typer.BadParameter):
            _cores(wrong)


def test_no_more_items_are_asked_for_than_every_artifact_can_find(
    open_to_new_items: Artifact, another_artifact: Artifact
) -> None:
    bodies = golden_bodies(open_to_new_items, another_artifact)
    assert len(bodies) == len(open_to_new_items.golden()) + len(another_artifact.golden())
    assert {body["k"] for body in bodies} == {8}


def test_who_listens_on_a_port_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        port = listener.getsockname()[1]
        worker = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[listener.fileno()]
        )
        try:
            process = psutil.Process(worker.pid)
            assert _listens(process, port)
            assert not _listens(process, other.getsockname()[1])
        finally:
            worker.communicate(b"\n")
