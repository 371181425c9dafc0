"""How far the rankings of a study lie from its reference for the same users, and whether that is more than chance."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from .metrics import gains_at, paired_bootstrap
from .plan import Job

K: Final = 10
_SCORES: Final = {None: "", False: ", codes alone", True: ", guided"}
_STORED_SCORES: Final = {None: "", False: ", codes only", True: ", rescored"}  # in files, which outlive a name
_KNOWN_FOR: Final = ("prorec, guided", "sasrec", "popularity")
Ranks = Mapping[str, NDArray[np.int64]]
Row = dict[str, Any]


def ranking_name(method: str, *, rescored: bool | None) -> str:
    """What ranks, and with which scores where there are several: "prorec, guided"."""
    return method + _SCORES[rescored]


def rank_key(holdout: str, method: str, *, rescored: bool | None) -> str:
    """Name of a ranking among the stored ranks of a run."""
    return f"{holdout}: {method}{_STORED_SCORES[rescored]}"


def _of_key(key: str) -> tuple[str, str]:
    """(held-out set, ranking) of a `rank_key`."""
    holdout, stored = key.split(": ")
    method, comma, scores = stored.partition(", ")
    rescored = next(kind for kind, name in _STORED_SCORES.items() if name == comma + scores)
    return holdout, ranking_name(method, rescored=rescored)


def differences(found: Iterable[tuple[Job, Ranks]], reference: str) -> list[Row]:
    """Recall@10 and NDCG@10, history masked, of every ranking minus the like one of the run `reference`: codes alone
    minus codes alone, stage I minus stage I. What `reference` has no like of, as popularity, and its own other rankings
    stand against the one that it is known for; `against` says which.

    A user counts with the mean over the seeds that there are of both, so the interval is of users, and the spread of
    seeds stands beside it: the least and the greatest difference of two runs with the same seed. What draws nothing, as
    popularity, stands for every seed.
    """
    rows = []
    for (holdout, order), methods in _by_set_and_order(found).items():
        own = {method: ranks for (run, method), ranks in methods.items() if run == reference}
        known = next((method for method in _KNOWN_FOR if method in own), None)
        for (run, method), ranks in methods.items():
            against = method if run != reference and method in own else known
            if against is None or (run, method) == (reference, against):
                continue
            named = {"split": holdout, "order": order, "run": run, "ranking": method, "against": against}
            rows += [named | row for row in _compared(_for_seeds(ranks, method, own[against]), own[against])]
    return rows


Seeds = dict[int, NDArray[np.int64]]


def _by_set_and_order(found: Iterable[tuple[Job, Ranks]]) -> dict[tuple[str, str], dict[tuple[str, str], Seeds]]:
    """(held-out set, order) → (run, ranking) → seed → ranks."""
    groups: dict[tuple[str, str], dict[tuple[str, str], Seeds]] = defaultdict(lambda: defaultdict(dict))
    for job, ranks in found:
        for key, places in ranks.items():
            holdout, method = _of_key(key)
            groups[holdout, job.order][job.run.name, method][job.seed] = places
    return groups


def _for_seeds(ranks: Seeds, method: str, reference: Seeds) -> Seeds:
    return dict.fromkeys(reference, next(iter(ranks.values()))) if method == "popularity" else ranks


def _compared(ranks: Seeds, reference: Seeds) -> Iterator[Row]:
    seeds = sorted(ranks.keys() & reference.keys())
    if not seeds:
        return
    metrics: tuple[Literal["recall", "ndcg"], ...] = ("recall", "ndcg")
    for metric in metrics:
        mine, theirs = ([gains_at(each[seed], K, metric) for seed in seeds] for each in (ranks, reference))
        result = paired_bootstrap(np.mean(mine, axis=0), np.mean(theirs, axis=0))
        by_seed = [float(np.mean(a - b)) for a, b in zip(mine, theirs, strict=True)]
        yield {
            "metric": f"{metric}@{K}",
            "difference": result.mean_difference,
            "low": result.low,
            "high": result.high,
            "p_value": result.p_value,
            "seeds": len(by_seed),
            "least": min(by_seed),
            "greatest": max(by_seed),
        }
