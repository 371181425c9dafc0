"""Benchmarks of the engine against its peers and its limits.

python -m deploy.bench roofline --batch 32
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .catalogs import BenchCatalog
from .networks import NETWORKS, prepare
from .roofline import roofline
from .trained import bench as trained

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)

Work = Annotated[Path, typer.Option(help="Folder of exported networks and results; may be deleted.")]
Threads = Annotated[int, typer.Option(help="Threads of ONNX Runtime and torch.")]
Rounds = Annotated[int, typer.Option(help="Interleaved rounds.")]

app.command(name="trained")(trained)


@app.command(name="roofline")
def roofline_command(
    network: Annotated[list[str], typer.Option(help="Networks.")] = list(NETWORKS),  # noqa: B006
    items: Annotated[int, typer.Option(help="Items of the catalog.")] = 10_000,
    beams: Annotated[int, typer.Option(help="20, 50, 128 or 256.")] = 20,
    batch: Annotated[list[int], typer.Option(help="Rows of a batch.")] = [1, 32],  # noqa: B006
    history: Annotated[int, typer.Option(help="Items of a history.")] = 20,
    threads: Threads = 2,
    rounds: Rounds = 9,
    work: Work = Path("var/bench"),
) -> None:
    """The graph against its matrix products alone, and trie and selection by difference: a JSON line a shape."""
    torch.set_num_threads(threads)
    for name in network:
        prepared = prepare(name, work)
        catalog = BenchCatalog.build(items, prepared.config)
        for rows in batch:
            _print(roofline(prepared, catalog, beams, rows, history, threads, rounds).as_row())


def _print(row: dict[str, Any]) -> None:
    shown = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    app()
