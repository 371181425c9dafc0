"""Two artifacts of one catalog, searched in turn by the engine's own search: which graph is faster.

    python -m deploy.graph_ab FOLDER_A FOLDER_B --batch 1 --batch 8 --batch 32 --history 20 --width 20 --threads 1

They may come from different versions of the exporter. Random histories, their items excluded; runs alternate, medians
and the median of the pairs' ratios are printed, and how many items of the first ten both agree on.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from models.artifact import Artifact
from models.graph import SearchRow
from service.engine.search import GraphSearch, Shape

from .bench.gpu_folder import random_histories, unseen_rows
from .commands import run

_WARM_RUNS = 3
_FEWEST_PAIRS = 5


def graph_ab(
    first: Annotated[Path, typer.Argument(metavar="FOLDER_A", help="One artifact.")],
    second: Annotated[Path, typer.Argument(metavar="FOLDER_B", help="Another one.")],
    batch: Annotated[list[int], typer.Option(min=1, help="Rows of a batch.")] = [1, 8, 32],  # noqa: B006
    history: Annotated[int, typer.Option(min=1, help="Items of a history.")] = 20,
    width: Annotated[int, typer.Option(help="Beams, one of both artifacts' widths.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime.")] = 1,
    seconds: Annotated[float, typer.Option(help="For each batch.")] = 5.0,
) -> None:
    """Prints one line a batch size."""
    artifacts = [Artifact.open(folder) for folder in (first, second)]
    for artifact in artifacts:
        if width not in (widths := artifact.manifest.beam_widths):
            raise typer.BadParameter(
                f"{artifact.folder} has beams of {', '.join(map(str, widths))}", param_hint="--width"
            )
    searches = [GraphSearch(artifact, threads) for artifact in artifacts]
    for count in batch:
        rows = unseen_rows(artifacts[0], random_histories(artifacts[0], count, history))
        print(f"batch {count:4d}: {compare(searches, rows, Shape(width, history), seconds)}", flush=True)


def compare(searches: Sequence[GraphSearch], rows: Sequence[SearchRow], shape: Shape, seconds: float) -> str:
    """Alternates for `seconds`, at least five pairs."""
    tops = [search.run(rows, shape).item[:, :10] for search in searches for _ in range(_WARM_RUNS)][::_WARM_RUNS]
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[1]) < _FEWEST_PAIRS:
        for search, spent in zip(searches, times, strict=True):
            started = time.perf_counter()
            search.run(rows, shape)
            spent.append(1e3 * (time.perf_counter() - started))
    first, second = (np.array(spent) for spent in times)
    same = np.mean([np.isin(one, other).mean() for one, other in zip(*tops, strict=True)])
    return (
        f"{np.median(first):8.2f} and {np.median(second):8.2f} ms, ratio {np.median(first / second):.2f} "
        f"({len(first)} pairs), first ten in common {same:.3f}"
    )


if __name__ == "__main__":
    run(graph_ab)
