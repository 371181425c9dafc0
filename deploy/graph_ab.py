"""Two artifacts of one catalog, searched in turn by the engine's own search: which graph is faster.

    python -m deploy.graph_ab FOLDER_A FOLDER_B --batches 1 8 32 128 --history 20 --width 20 --threads 1

They may come from different versions of the exporter. Random histories, their items excluded; runs alternate, medians
and the median of the pairs' ratios are printed, and how many items of the first ten both agree on.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.artifact import Artifact
from models.graph import SearchRow
from service.engine.search import GraphSearch, Shape

from .bench.gpu_folder import random_histories, unseen_rows

_WARM_RUNS = 3
_FEWEST_PAIRS = 5


def main() -> None:
    """Prints one line a batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--history", type=int, default=20, help="items")
    parser.add_argument("--width", type=int, default=20, help="beams, one of both artifacts' widths")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each batch size")
    args = parser.parse_args()
    artifacts = [Artifact.open(folder) for folder in args.folders]
    searches = [GraphSearch(artifact, args.threads) for artifact in artifacts]
    for batch in args.batches:
        rows = unseen_rows(artifacts[0], random_histories(artifacts[0], batch, args.history))
        print(f"batch {batch:4d}: {compare(searches, rows, Shape(args.width, args.history), args.seconds)}", flush=True)


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
    main()
