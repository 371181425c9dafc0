"""The engine against its peers and its limits, measured on this machine.

python -m deploy.bench goals                         every claim, with what was wanted beside it (make bench)
python -m deploy.bench goals --row generate --row eager
python -m deploy.bench grid                          all sizes, into var/bench/grid.jsonl, resumable (make bench-full)
python -m deploy.bench table                         what the grid has measured so far, as Markdown
python -m deploy.bench roofline --batch 32           the graph against its matrix products alone
What HTTP adds is measured by `python -m deploy.bench_requests ARTIFACT` (make bench-http).
"""

import json
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer

from models.artifact import Artifact

from ..commands import run
from ..errors import BenchError
from .catalogs import BenchCatalog
from .cells import Cell, grid
from .findings import Finding, unmet
from .goals import ROWS, Bench
from .grid import Results, measure_cells, run_grid
from .histories import RealHistories
from .networks import BEAM_WIDTHS, NETWORKS, prepare
from .roofline import roofline
from .table import markdown

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)

Work = Annotated[Path, typer.Option(help="Folder of exported networks and results; may be deleted.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime and torch.")]
Rounds = Annotated[int, typer.Option(min=1, help="Interleaved rounds.")]
_WORK = Path("var/bench")
_TRAINED = Path("artifacts/movielens-100k-1")
_TRAINED_DATA = Path("data/movielens-100k")

T = TypeVar("T")


@app.command()
def goals(
    row: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(ROWS)}.")] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder with real histories (row histories).")] = None,
    trained: Annotated[
        Path | None, typer.Option(help=f"Trained artifact (rows trained, free and precision); else {_TRAINED}.")
    ] = None,
    trained_data: Annotated[Path | None, typer.Option(help=f"What it was trained on; else {_TRAINED_DATA}.")] = None,
    threads: Threads = 2,
    rounds: Rounds = 5,
    work: Work = _WORK,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Every claim about the engine, measured; a row without its data is left out and named at the end."""
    chosen = row or list(ROWS)
    if strangers := sorted(set(chosen) - ROWS.keys()):
        raise typer.BadParameter(f"no such row: {', '.join(strangers)}")
    bench = Bench(
        work,
        threads,
        rounds,
        histories=RealHistories.read(data) if data else None,
        trained=_given_or_usual(trained, _TRAINED, Artifact.open),
        trained_on=_given_or_usual(trained_data, _TRAINED_DATA, RealHistories.read),
    )
    print(_machine(threads), flush=True)
    found: list[Finding] = []
    failed: dict[str, str] = {}
    for name in chosen:
        try:
            for finding in ROWS[name](bench):
                found.append(finding)
                print(finding.line(), flush=True)
        except BenchError as error:
            failed[name] = str(error)
    _conclude(chosen, found, failed)
    if json_path is not None:
        report = {"machine": _machine(threads), "findings": [f.as_row() for f in found], "failed": failed}
        json_path.write_text(json.dumps(report, indent=2) + "\n")
    if failed:
        raise typer.Exit(1)


@app.command(name="grid")
def grid_command(
    network: Annotated[list[str], typer.Option(help="Networks.")] = list(NETWORKS),  # noqa: B006
    items: Annotated[list[int] | None, typer.Option(help="Only catalogs of these sizes.")] = None,
    beams: Annotated[list[int] | None, typer.Option(help="Only these beam widths.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Only these batches.")] = None,
    history: Annotated[list[int] | None, typer.Option(help="Only histories of these lengths.")] = None,
    limit_s: Annotated[float, typer.Option(help="Seconds a cell may take.")] = 120.0,
    threads: Threads = 2,
    rounds: Rounds = 5,
    work: Work = _WORK,
) -> None:
    """Engine, eager loop, free search and, where it is small enough, `generate`, at every size; prints a row a cell.

    A cell that failed is tried again by the next call; exit code 1: some have failed.
    """
    _check_networks(network)
    wanted = {"network": network, "items": items, "beams": beams, "batch": batch, "history": history}
    cells = [c for c in grid() if all(not v or c.as_row()[name] in v for name, v in wanted.items())]
    failed = run_grid(cells, work, threads, rounds, limit_s)
    print(f"{len(cells) - len(failed)} cells measured, {len(failed)} failed; rows in {work / 'grid.jsonl'}")
    if failed:
        raise typer.Exit(1)


@app.command(name="table")
def table_command(work: Work = _WORK) -> None:
    """What `grid` has measured so far, as Markdown."""
    for line in markdown(Results(work / "grid.jsonl").rows()):
        print(line)


@app.command(hidden=True)
def cells(
    budget_s: Annotated[float, typer.Option(help="Seconds of rounds a cell may take.")],
    threads: Threads = 2,
    rounds: Rounds = 5,
    work: Work = _WORK,
) -> None:
    """Measures the cells named on stdin; started by `grid`."""
    named = [Cell(**row) for row in json.load(sys.stdin)]
    measure_cells(named, Results(work / "grid.jsonl"), work, threads, rounds, budget_s)


@app.command(name="roofline")
def roofline_command(
    network: Annotated[list[str], typer.Option(help="Networks.")] = list(NETWORKS),  # noqa: B006
    items: Annotated[int, typer.Option(min=1, help="Items of the catalog.")] = 10_000,
    beams: Annotated[int, typer.Option(help="20, 50, 128 or 256.")] = 20,
    batch: Annotated[list[int], typer.Option(min=1, help="Rows of a batch.")] = [1, 32],  # noqa: B006
    history: Annotated[int, typer.Option(min=1, help="Items of a history.")] = 20,
    threads: Threads = 2,
    rounds: Rounds = 9,
    work: Work = _WORK,
) -> None:
    """The graph against its matrix products alone, and trie and selection by difference: a JSON line a shape."""
    _check_networks(network)
    if beams not in BEAM_WIDTHS:
        raise typer.BadParameter(f"{beams} beams were not exported: {', '.join(map(str, BEAM_WIDTHS))}")
    torch.set_num_threads(threads)
    for name in network:
        prepared = prepare(name, work)
        catalog = BenchCatalog.build(items, prepared.config)
        for rows in batch:
            _print(roofline(prepared, catalog, beams, rows, history, threads, rounds).as_row())


def _given_or_usual(given: Path | None, usual: Path, read: Callable[[Path], T]) -> T | None:
    """What was named must be there, what usually lies there need not."""
    path = given or usual
    return read(path) if given or usual.exists() else None


def _check_networks(names: Sequence[str]) -> None:
    if strangers := sorted(set(names) - NETWORKS.keys()):
        raise typer.BadParameter(f"no such network: {', '.join(strangers)}; there are {', '.join(NETWORKS)}")


def _machine(threads: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "onnxruntime-gpu"))
    python = platform.python_version()
    return f"{platform.processor() or platform.machine()}, {threads} threads, Python {python}, {versions}"


def _conclude(chosen: list[str], found: list[Finding], failed: dict[str, str]) -> None:
    for name in chosen:
        if name in failed:
            print(f"failed: {name}: {failed[name]}")
        elif not any(finding.row == name for finding in found):
            print(f"left out: {name}, for want of its data (--data, --trained)")
    if missed := unmet(found):
        print(f"goals not met: {'; '.join(missed)}")


def _print(row: dict[str, Any]) -> None:
    shown = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    run(app)
