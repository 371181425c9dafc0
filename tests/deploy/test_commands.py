"""A benchmark that cannot begin, or cannot go on, says why in one sentence."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from deploy import (
    bench_publish,
    bench_requests,
    bench_shadow,
    bench_swaps,
    bench_training,
    cold_items,
    graph_ab,
    synthetic,
)
from deploy.bench.__main__ import app
from deploy.commands import run
from deploy.errors import BenchError

NOWHERE = "/nowhere/at/all"
MISSING = [
    (bench_shadow.bench_shadow, [NOWHERE, NOWHERE]),
    (bench_swaps.bench_swaps, [NOWHERE, NOWHERE]),
    (bench_requests.bench_requests, [NOWHERE]),
    (graph_ab.graph_ab, [NOWHERE, NOWHERE]),
    (bench_training.main, [NOWHERE]),
    (cold_items.main, ["--data", NOWHERE, "--work", "work"]),
    (app, ["goals", "--data", NOWHERE]),
    (app, ["goals", "--trained", NOWHERE]),
]
MISUSES = [
    (app, ["goals", "--row", "none"]),
    (app, ["grid", "--network", "none"]),
    (app, ["roofline", "--network", "none"]),
    (app, ["roofline", "--beams", "21"]),
    (app, ["roofline", "--batch", "0"]),
    (bench_publish.bench_publish, ["--items", "0"]),
    (synthetic.synthetic, ["new", "--width", "7"]),
    (synthetic.synthetic, ["."]),
    (bench_training.main, []),
    (bench_training.main, [".", "--items", "9"]),
]
Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("command", "words"), MISSING)
def test_what_is_not_there_is_said_before_anything_is_measured(
    command: Command, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(command, *words) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: /nowhere/at/all is not ")
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "words"), MISUSES)
def test_wrong_use_is_said_before_anything_is_measured(command: Command, words: list[str], tmp_path: Path) -> None:
    assert exit_code(command, *words) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [BenchError, httpx.ConnectError, OSError])
def test_what_ends_a_measurement_is_one_sentence(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(raising(kind("no such thing"))) == 1
    assert capsys.readouterr().err == "error: no such thing\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        exit_code(raising(KeyError("bug")))


def exit_code(command: Command, *words: str) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *words])
        try:
            run(command)
        except SystemExit as end:
            return end.code
    return 0


def raising(error: Exception) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise error

    return app
