"""The whole grid, cell by cell, into a file that survives an interruption.

For each network and catalog a child process measures the cells that have no row yet and appends one for each; the
parent watches. A cell that takes
longer than the limit, or that takes its process down (memory), becomes a row with an `error`, and a new child goes on
with the next one; a later run tries it again. Rows know the exported graph they were measured with: another graph is
measured anew.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import BenchError
from .cells import NAMES, Cell, load_peers, measure
from .networks import prepare

_POLL_S: Final = 0.2
_START_S: Final = 300.0  # importing torch, exporting a network, building a catalog of ten million items


@dataclass(frozen=True)
class Results:
    """The file of rows, one JSON object a line."""

    path: Path

    def rows(self) -> list[dict[str, Any]]:
        """All complete lines; one that an interruption cut off is ignored."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def append(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write("\n" * cut_off + json.dumps(row) + "\n")

    def pending(self, cells: Iterable[Cell], setting: dict[str, Any], tried: int = 0) -> list[Cell]:
        """Cells that no row of this setting has measured; those that have failed since the first `tried` rows are not
        tried again."""
        rows = [row for number, row in enumerate(self.rows()) if "error" not in row or number >= tried]
        done = {_key(row) for row in rows if setting.items() <= row.items()}
        return [cell for cell in cells if _key(cell.as_row()) not in done]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a cell from others."""
    return tuple(row[name] for name in NAMES)


def measure_cells(
    cells: Sequence[Cell], results: Results, work: Path, threads: int, rounds: int, budget_s: float
) -> None:
    """The child's work: measures cells of one network and catalog, in order."""
    prepared = prepare(cells[0].network, work)
    peers = load_peers(prepared, cells[0].items, threads)
    for cell in cells:
        try:
            row = measure(cell, peers, rounds, budget_s)
        except BenchError as error:
            row = {"error": str(error)}
        results.append(cell.as_row() | _setting(threads, prepared.artifact.folder.name) | row)


def run_grid(cells: Sequence[Cell], work: Path, threads: int, rounds: int, limit_s: float) -> list[dict[str, Any]]:
    """Measures all of `cells` that are not measured yet, and returns the rows of those that failed.

    A cell has `limit_s` seconds, of which rounds get a third.
    """
    results = Results(work / "grid.jsonl")
    tried = len(results.rows())
    graphs = {name: prepare(name, work).artifact.folder.name for name in dict.fromkeys(c.network for c in cells)}

    def pending() -> list[Cell]:
        return [
            cell
            for name, graph in graphs.items()
            for cell in results.pending([c for c in cells if c.network == name], _setting(threads, graph), tried)
        ]

    while left := pending():
        group = [cell for cell in left if cell.network == left[0].network and cell.items == left[0].items]
        failed = watch(_child(group, work, threads, rounds, limit_s / 3), results, limit_s)
        if failed and (left := pending()):
            results.append(left[0].as_row() | _setting(threads, graphs[left[0].network]) | {"error": failed})
    return [row for row in results.rows()[tried:] if "error" in row]


def _setting(threads: int, graph: str) -> dict[str, Any]:
    """What a row is only comparable within: threads, and the exported graph."""
    return {"threads": threads, "graph": graph}


def _child(cells: Sequence[Cell], work: Path, threads: int, rounds: int, budget_s: float) -> subprocess.Popen[bytes]:
    listed = json.dumps([cell.as_row() for cell in cells]).encode()
    command = [sys.executable, "-m", "deploy.bench", "cells", "--work", str(work)]
    command += ["--threads", str(threads), "--rounds", str(rounds), "--budget-s", str(budget_s)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(listed)
    child.stdin.close()
    return child


def watch(child: subprocess.Popen[bytes], results: Results, limit_s: float, start_s: float = _START_S) -> str:
    """Waits for the child's end; why the cell it was in has failed, or nothing.

    limit_s  seconds between two rows, before the child is killed; the first one may take `start_s` longer
    """
    rows, deadline = len(results.rows()), time.monotonic() + limit_s + start_s
    try:
        while child.poll() is None:
            time.sleep(_POLL_S)
            now = len(results.rows())
            if now > rows:
                rows, deadline = now, time.monotonic() + limit_s
                print(json.dumps(results.rows()[-1]), flush=True)
            elif time.monotonic() > deadline:
                return f"took longer than {limit_s:.0f} s"
        return "" if child.returncode == 0 else f"its process ended with {child.returncode}"
    finally:  # also where Ctrl-C ends the wait
        child.kill()
        child.wait()
