"""Held-out metrics: full ranking over all items, one held-out item a user, PRORec through its exported graph.

Every method is measured with the user's own history masked out of the ranking and without. A held-out item that the
user has taken before stays in a masked ranking.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from models.artifact import Artifact
from models.graph import catalog_inputs
from models.trie import CodeTrie

from .errors import ConfigError
from .export import GraphSearch
from .interactions import Holdout, Split
from .metrics import CUTOFFS, gains_at, metric_table, paired_bootstrap, ranks_of_targets
from .package import holdout_rows
from .ranking import Scores, chunks, full_ranks, sampled, sampled_rows

Metrics = dict[str, dict[str, float]]
TEST_SET = "test set"
VALIDATION_SET = "validation set"
UNMASKED = " (history ranked too)"
_SHOWN = [*(f"recall@{k}" for k in CUTOFFS), *(f"ndcg@{k}" for k in CUTOFFS)]


@dataclass(frozen=True)
class Ranked:
    """0-based ranks of the held-out items, int64 [M], with the history masked and without; -1 is not in the list."""

    masked: NDArray[np.int64]
    unmasked: NDArray[np.int64]

    def metrics(self, name: str) -> Metrics:
        return {name: metric_table(self.masked), name + UNMASKED: metric_table(self.unmasked)}


def rank_by_scores(holdout: Holdout, scores: Scores) -> Ranked:
    """Ranks from a method that scores the whole catalog."""
    return Ranked(*(full_ranks(holdout, scores, mask_history=masked) for masked in (True, False)))


def rank_by_popularity(holdout: Holdout, counts: NDArray[np.int64]) -> Ranked:
    """Ranks by number of training events, int64 [N]."""
    popularity = torch.from_numpy(counts).float()
    return rank_by_scores(holdout, lambda histories: popularity.repeat(len(histories), 1))


def rank_by_search(holdout: Holdout, search: GraphSearch, trie: CodeTrie, weight: float) -> Ranked:
    """Ranks from the constrained beam search of an exported graph at a weight of rescoring; 0: by codes alone."""
    found = []
    for masked in (True, False):
        parts = tqdm(list(chunks(sampled_rows(holdout), 64)), desc="evaluate", unit="batch", leave=False, disable=None)
        items = [search(holdout_rows(holdout, rows, trie, masked=masked), weight).item for rows in parts]
        found.append(ranks_of_targets(np.concatenate(items), holdout.target))
    return Ranked(*found)


def measured_on(split: Split, users: int | None = None, *, test: bool = True) -> tuple[Holdout, str]:
    """The test or the validation set, of all users or a fixed sample; and what it is called."""
    holdout, name = (split.test, TEST_SET) if test else (split.valid, VALIDATION_SET)
    if users is None or users >= len(holdout):
        return holdout, name
    return sampled(holdout, users), f"{name}, a fixed sample of {users} of its {len(holdout)} users"


def prorec_metrics(holdout: Holdout, search: GraphSearch, trie: CodeTrie, weight: float) -> tuple[Metrics, Ranked]:
    """PRORec by codes alone and guided, through the graph; and the guided ranks, for paired comparison."""
    by_code, guided = (rank_by_search(holdout, search, trie, each) for each in (0.0, weight))
    return by_code.metrics("PRORec, codes alone") | guided.metrics("PRORec, guided"), guided


def compare(a: Ranked, b: Ranked, k: int = 10) -> dict[str, float]:
    """Paired bootstrap over users of recall@k with masked history, a minus b."""
    result = paired_bootstrap(gains_at(a.masked, k, "recall"), gains_at(b.masked, k, "recall"))
    return {"difference": result.mean_difference, "low": result.low, "high": result.high, "p_value": result.p_value}


def evaluate_artifact(artifact: Artifact, split: Split, users: int | None = None) -> Metrics:
    """Test metrics of an artifact on a dataset with the same items, at its default beam width; `users`: of a sample."""
    manifest = artifact.manifest
    items = split.interactions.item_ids
    if artifact.item_ids.indices(items).tolist() != list(range(manifest.item_count)):
        raise ConfigError(f"the dataset's items are not those of {artifact.folder}")
    if split.fingerprint() != manifest.training_fingerprint and manifest.refitted_from:
        raise ConfigError(
            f"{artifact.folder} has learned from the test events too, as a refit of {manifest.refitted_from}; "
            f"measure {manifest.refitted_from} instead"
        )
    if split.fingerprint() != manifest.training_fingerprint:
        raise ConfigError(
            f"{artifact.folder} was trained on other events than this split trains on; "
            "give the data and the --tie-seed it was trained with, or test events would be among them"
        )
    graph = artifact.cpu_graph_path(manifest.default_beam_width)
    search = GraphSearch(graph, catalog_inputs(artifact), manifest.config.code_length, manifest.history_buckets)
    counts = split.train.counts(manifest.item_count)
    holdout, _ = measured_on(split, users)
    popularity = rank_by_popularity(holdout, counts).metrics("popularity")
    return popularity | prorec_metrics(holdout, search, artifact.trie, manifest.rescore_weight)[0]


def print_metrics(metrics: Metrics, title: str) -> None:
    """One line a method; comparisons stand below as a sentence."""
    table = Table("method", *_SHOWN, title=title)
    for method, values in metrics.items():
        if _SHOWN[0] in values:
            table.add_row(method, *(f"{values[name]:.4f}" for name in _SHOWN))
    console = Console(width=max(120, Console().width))
    console.print(table)
    for method, values in metrics.items():
        if "p_value" in values:
            console.print(
                f"{method}, recall@10: {values['difference']:+.4f} "
                f"(95 % interval {values['low']:+.4f} … {values['high']:+.4f}, p = {values['p_value']:.3f})"
            )
