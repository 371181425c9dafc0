"""One training of a study: trained with steps that other runs share, exported, measured, diagnosed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.graph import catalog_inputs

from .co_occurrence import co_occurrence_vectors
from .collaborative import CollaborativeTask
from .diagnosis import code_use, diagnose, domination, explained_variance
from .differences import rank_key
from .evaluate import Ranked, rank_by_popularity, rank_by_scores, rank_by_search
from .export import GraphSearch
from .finish import Finish
from .interactions import Holdout
from .metrics import metric_table
from .pipeline import Run
from .plan import Job, Plan

_HEAD_SHARE = 0.2
Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """Ranks of one method on one set of held-out events.

    method    what ranks: popularity, sasrec, stage1 (its own full ranking), prorec (constrained beam search)
    rescored  whether item scores were added to code scores; None where there are no codes
    """

    method: str
    holdout: str
    ranked: Ranked
    rescored: bool | None = None
    beam_width: int | None = None


def run_job(job: Job, plan: Plan, data: Path, folder: Path, device: str) -> dict[str, Any]:
    """Trains and measures; everything about it that a report shows, JSON-ready but for the ranks: int64 [users]."""
    config = job.config.model_copy(update={"device": device})
    run = Run(data, folder / "runs" / job.key, config, folder / "steps")
    holdouts = {"valid": run.split.valid} | ({"test": run.split.test} if plan.test else {})
    result: dict[str, Any] = {}
    match job.run.kind:
        case "popularity":
            counts = run.split.train.counts(run.item_count)
            measured = [Measured("popularity", at, rank_by_popularity(part, counts)) for at, part in holdouts.items()]
        case "sasrec":
            trained = run.sasrec()
            assert trained is not None  # the plan has refused it otherwise
            measured = [_by_scores("sasrec", at, part, trained[1]) for at, part in holdouts.items()]
        case "prorec":
            measured, result = _prorec(run, plan, holdouts)
    train = run.split.train
    group = item_groups(train.counts(run.item_count), train.trained(run.item_count))
    rows = [row for one in measured for row in _rows(one, holdouts[one.holdout], group)]
    curves = {name: {"history": p.history, "samples_per_s": p.samples_per_s, "seconds": p.seconds}
              for name, p in run.progress.items()}  # fmt: skip
    ranks = {rank_key(one.holdout, one.method, rescored=one.rescored): one.ranked.masked for one in measured}
    return {"rows": rows, "ranks": ranks, "curves": curves, "recipe": job.config.recipe()} | result


def _by_scores(method: str, at: str, holdout: Holdout, task: CollaborativeTask) -> Measured:
    return Measured(method, at, rank_by_scores(holdout, task.rank_scores()))


def _prorec(run: Run, plan: Plan, holdouts: dict[str, Holdout]) -> tuple[list[Measured], dict[str, Any]]:
    config, (_, stage1), (_, task) = run.config, run.stage1(), run.stage2()
    artifact = Artifact.open(run.out) if run.out.exists() else Finish(run).write()
    width, weight = config.default_beam_width, artifact.manifest.rescore_weight
    inputs = catalog_inputs(artifact)
    search = GraphSearch(
        artifact.cpu_graph_path(width), inputs, config.model.code_length, artifact.manifest.history_buckets
    )
    measured = []
    for at, holdout in holdouts.items():
        for rescored, asked in ((False, 0.0), (True, weight)):
            found = rank_by_search(holdout, search, artifact.trie, asked)
            measured.append(Measured("prorec", at, found, rescored, width))
        if config.recommender == "temporal":  # DIN would score every pair of user and item
            measured.append(_by_scores("stage1", at, holdout, stage1))
    codes = run.quantized()
    result = diagnose(
        task, inputs, config, weight,
        users=plan.diagnosis_users, regret_users=plan.regret_users, widths=plan.beam_widths,
    )  # fmt: skip
    values = config.model.tokens_per_level
    result["code_use"] = code_use(codes["tokens"], codes["nearest"], values)
    # The same for every run, and neither knows the other: what a model has learned is mixed already.
    modalities = {
        "collaborative": co_occurrence_vectors(run.split.train, run.item_count),
        "semantic": run.prepare(),
    }
    result["domination"] = domination(codes["tokens"], modalities)
    quantized = {"integrated": run.embeddings().integrated}
    result["explained_variance"] = explained_variance(run.codes(), modalities | quantized)
    return measured, result | {"rescore_weight": weight}


def item_groups(counts: NDArray[np.int64], trained: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Items, bool [N]: head, the fifth with most training events; cold, those not `trained`; tail, the others."""
    head = np.zeros(len(counts), dtype=bool)
    head[np.argsort(-counts, kind="stable")[: round(_HEAD_SHARE * len(counts))]] = True
    cold = ~trained
    return {"head": head & ~cold, "tail": ~head & ~cold, "cold": cold}


def _rows(measured: Measured, holdout: Holdout, groups: dict[str, NDArray[np.bool_]]) -> list[Row]:
    """One row for all targets and one for each group of them that occurs, with the history masked and not."""
    chosen = {"all": np.ones(len(holdout), dtype=bool)}
    chosen |= {name: group[holdout.target] for name, group in groups.items()}
    return [
        {
            "split": measured.holdout,
            "method": measured.method,
            "history_masked": masked,
            "rescored": measured.rescored,
            "beam_width": measured.beam_width,
            "items": name,
            "users": int(users.sum()),
        }
        | metric_table(ranks[users])
        for masked, ranks in ((True, measured.ranked.masked), (False, measured.ranked.unmasked))
        for name, users in chosen.items()
        if users.any()
    ]
