"""What a trained run's numbers come from: its codes, its levels, its beam. All on validation users, history masked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.codes import CodeTable
from models.graph import Inputs
from models.network import Context
from models.quantizer import additive_vectors

from .batches import pad_histories
from .config import TrainingConfig
from .generator import GeneratorModel, GeneratorTask, SearchScores, eager_search
from .interactions import Holdout
from .metrics import ranks_of_targets, recall_at
from .ranking import chunks, masked_items, sampled_rows

_K = 10
_ITEMS = 1000
_ITEMS_AT_ONCE = 64
_ROWS_AT_ONCE = 4096


def code_use(tokens: NDArray[np.int32], nearest: NDArray[np.int32], values: int) -> list[dict[str, float]]:
    """For each level: share of its tokens in use, their perplexity as a share of V, and the share of items whose
    first tokens some other item has too, in the final codes [N, L] and before they were made unique."""
    return [
        {
            "used": np.unique(tokens[:, level]).size / values,
            "perplexity": _perplexity(tokens[:, level]) / values,
            "shared": _shared(tokens[:, : level + 1]),
            "shared_before": _shared(nearest[:, : level + 1]),
        }
        for level in range(tokens.shape[1])
    ]


def _perplexity(tokens: NDArray[np.int32]) -> float:
    share = np.unique(tokens, return_counts=True)[1] / len(tokens)
    return float(np.exp(-(share * np.log(share)).sum()))


def _shared(prefixes: NDArray[np.int32]) -> float:
    _, group, sizes = np.unique(prefixes, axis=0, return_inverse=True, return_counts=True)
    return float((sizes[group.reshape(-1)] > 1).mean())


def domination(tokens: NDArray[np.int32], modalities: dict[str, NDArray[np.float32]]) -> list[dict[str, float]]:
    """How much of each code's neighbourhood each modality explains, for prefixes of 1 … L - 1 tokens.

    An item's code neighbours are the n items that share the prefix. Explained by a modality is the share of them that
    are among the item's n nearest by cosine in that modality [N, D]; `chance` is that share for random neighbours.
    Means over up to a thousand items that have code neighbours.
    """
    sample = np.sort(np.random.default_rng(0).permutation(len(tokens))[:_ITEMS])
    most = int(np.bincount(tokens[:, 0]).max())  # sharers of a first token, of which longer prefixes have fewer
    order = {name: _nearest_first(table, sample, most) for name, table in modalities.items()}
    return [
        {"neighbours": size, "chance": size / (len(tokens) - 1)} | shares
        for level in range(1, tokens.shape[1])
        for size, shares in [_explained(tokens[:, :level], sample, order)]
    ]


def _nearest_first(table: NDArray[np.float32], rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The `most` nearest other items by cosine, int64 [len(rows), most]."""
    unit, parts = F.normalize(torch.from_numpy(table), dim=1), []
    for part in torch.from_numpy(rows).split(_ITEMS_AT_ONCE):
        scores = unit[part] @ unit.T
        scores[torch.arange(len(part)), part] = -torch.inf
        parts.append(scores.topk(min(most, len(unit) - 1), dim=1).indices)
    return torch.cat(parts).numpy()


def _explained(
    prefixes: NDArray[np.int32], sample: NDArray[np.int64], order: dict[str, NDArray[np.int64]]
) -> tuple[float, dict[str, float]]:
    group = np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1)
    shares: dict[str, list[float]] = {name: [] for name in order}
    sizes = []
    for row, item in enumerate(sample.tolist()):
        near = group == group[item]
        size = int(near.sum()) - 1
        if size:
            sizes.append(size)
            for name, by in order.items():
                shares[name].append(float(near[by[row, :size]].mean()))
    return float(np.mean(sizes or [0])), {name: float(np.mean(found or [0])) for name, found in shares.items()}


def explained_variance(codes: CodeTable, modalities: dict[str, NDArray[np.float32]]) -> list[dict[str, float]]:
    """How much of each modality's embeddings [N, D] the tokens of levels 1 … l tell, each token by a vector of its own.

    The share of their variance that is gone when these vectors, each the mean of what the levels before left over, are
    taken away. `chance` is that share for tokens that were dealt to the items at random.
    """
    dealt = CodeTable(codes.tokens[np.random.default_rng(0).permutation(codes.item_count)], codes.tokens_per_level)
    told = {name: _told(table, codes) for name, table in modalities.items()}
    told["chance"] = _told(next(iter(modalities.values())), dealt)
    return [dict(zip(told, level, strict=True)) for level in zip(*told.values(), strict=True)]


def _told(table: NDArray[np.float32], codes: CodeTable) -> list[float]:
    rest = table - table.mean(axis=0)
    whole, shares = float(np.square(rest).sum()), []
    for level, vectors in enumerate(additive_vectors(rest, codes)):
        rest = rest - vectors[codes.tokens[:, level]]
        shares.append(1 - float(np.square(rest).sum()) / whole if whole else 0.0)
    return shares


def distillation_sources(task: GeneratorTask, tables: Inputs, users: int) -> dict[str, dict[str, float]]:
    """What the distilled state tells about the target from: the user, or the code that was given to the decoder.

    For each modality the share of users whose target, among all items, has the embedding nearest to what the state was
    distilled into: from the user's own state and the target's code, from somebody else's state and the target's code,
    and from the user's own state and the code of somebody else's target.
    """
    model, holdout = task.model, task.split.valid
    rows = sampled_rows(holdout, users)
    others = np.roll(rows, 1)
    found: dict[str, dict[str, list[Tensor]]] = {"collaborative": {}, "semantic": {}}
    for at in chunks(np.arange(len(rows))):
        target = torch.from_numpy(holdout.target[rows[at]]).long()
        pairs = {
            "user and code": (rows[at], target),
            "another user": (others[at], target),
            "another code": (rows[at], torch.from_numpy(holdout.target[others[at]]).long()),
        }
        for name, (of, given) in pairs.items():
            with torch.no_grad():
                _, state = model.generator.teacher_forced(_context(model, tables, holdout, of), model.codes[given])
                for modality, (mine, items) in model.distilled(state).items():
                    found[modality].setdefault(name, []).append((mine @ items.T).argmax(dim=1) == target)
    return {
        modality: {name: float(torch.cat(hits).float().mean()) for name, hits in by.items()}
        for modality, by in found.items()
    }


def level_accuracy(task: GeneratorTask, tables: Inputs, users: int) -> list[float]:
    """Share of users whose target's token is the most probable one of its siblings, the tokens before it given."""
    model, holdout = task.model, task.split.valid
    hits = []
    for part in chunks(sampled_rows(holdout, users)):
        target = torch.from_numpy(holdout.target[part]).long()
        with torch.no_grad():
            context = _context(model, tables, holdout, part)
            logits, _ = model.generator.teacher_forced(context, model.codes[target])
        choices = task.siblings(target.device).of(target)
        right = [choice.scores(one).argmax(dim=1) == choice.taken for one, choice in zip(logits, choices, strict=True)]
        hits.append(torch.stack(right, dim=1))
    return [float(share) for share in torch.cat(hits).float().mean(dim=0)]


def _context(model: GeneratorModel, tables: Inputs, holdout: Holdout, rows: NDArray[np.int64]) -> Context:
    length = model.generator.config.history_length
    history = pad_histories([holdout.history(row, length) for row in rows.tolist()])
    name = "item_input" if model.temporal else "item_code"
    return model.generator.encode(history, {name: torch.from_numpy(np.array(tables[name]))})


def beam_recall(
    task: GeneratorTask, tables: Inputs, config: TrainingConfig, weight: float, widths: Sequence[int], users: int
) -> list[dict[str, float]]:
    """Recall of validation targets by beam width: codes alone and guided in the first 10, and anywhere in the beam."""
    targets = task.split.valid.target[sampled_rows(task.split.valid, users)]
    found = []
    for width in widths:
        asked = config.model_copy(update={"default_beam_width": width})
        codes, rescored = (
            ranks_of_targets(
                eager_search(task.model, task.trie, task.split.valid, asked, tables, each, limit=users).items, targets
            )
            for each in (0.0, weight)
        )
        found.append(
            {
                "width": width,
                "codes": recall_at(codes, _K),
                "rescored": recall_at(rescored, _K),
                "anywhere": recall_at(rescored, width),
            }
        )
    return found


@dataclass(frozen=True)
class _Exhaustive:
    """Scores of all items for one user: code_score and item_score float32 [N]; a masked item has minus infinity."""

    code_score: NDArray[np.float32]
    item_score: NDArray[np.float32]

    def best(self, weight: float) -> NDArray[np.int64]:
        return np.argsort(-(self.code_score + np.float32(weight) * self.item_score), kind="stable")[:_K]


def beam_regret(
    task: GeneratorTask, tables: Inputs, config: TrainingConfig, weight: float, users: int
) -> dict[str, dict[str, float]]:
    """What the beam loses against scoring the whole catalog through the same network, with rescoring and without.

    beam, exhaustive  recall@10 of either
    overlap           share of the exhaustive first 10 that the beam has among its own first 10
    regret            mean difference of the best score: exhaustive minus beam
    """
    valid = task.split.valid
    rows = sampled_rows(valid, users)
    every = list(_score_catalog(task, tables, rows))
    return {
        name: _regret(
            eager_search(task.model, task.trie, valid, config, tables, each, limit=users),
            every,
            valid.target[rows],
            each,
        )
        for name, each in (("codes", 0.0), ("rescored", weight))
    }


def _regret(
    beam: SearchScores, every: list[_Exhaustive], targets: NDArray[np.int32], weight: float
) -> dict[str, float]:
    narrow = beam.items[:, :_K]
    wide = np.stack([one.best(weight) for one in every])
    best = np.array([(one.code_score + np.float32(weight) * one.item_score).max() for one in every])
    return {
        "beam": recall_at(ranks_of_targets(narrow, targets), _K),
        "exhaustive": recall_at(ranks_of_targets(wide, targets), _K),
        "overlap": float(np.mean([np.isin(a, b).mean() for a, b in zip(wide, narrow, strict=True)])),
        "regret": float(np.mean(best - beam.score[:, 0])),
    }


def _score_catalog(task: GeneratorTask, tables: Inputs, rows: NDArray[np.int64]) -> Iterator[_Exhaustive]:
    model, holdout = task.model, task.split.valid
    vectors = torch.from_numpy(np.array(tables["item_output"]))
    every = torch.arange(len(vectors))
    for row in rows.tolist():
        with torch.no_grad():
            context = _context(model, tables, holdout, np.array([row]))
            parts = [_code_scores(task, context, items) for items in every.split(_ROWS_AT_ONCE)]
            item_score = (vectors @ context.user_state[0]).numpy()
        code_score = torch.cat(parts).numpy()
        code_score[masked_items(holdout.history(row), holdout.target[row])] = -np.inf
        yield _Exhaustive(code_score, item_score)


def _code_scores(task: GeneratorTask, context: Context, items: Tensor) -> Tensor:
    """Log-probability of every item's code for one user, [P]."""
    logits, _ = task.model.generator.teacher_forced(context.repeat(len(items)), task.model.codes[items])
    choices = task.siblings(items.device).of(items)
    return torch.stack([choice.log_prob(one) for one, choice in zip(logits, choices, strict=True)]).sum(dim=0)


def diagnose(
    task: GeneratorTask, tables: Inputs, config: TrainingConfig, weight: float, *, users: int, regret_users: int,
    widths: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """Everything above that needs the network."""
    distilled = {"distillation": distillation_sources(task, tables, users)} if config.ikd_weight else {}
    return distilled | {
        "level_accuracy": level_accuracy(task, tables, users),
        "beam_recall": beam_recall(task, tables, config, weight, widths, users),
        "beam_regret": beam_regret(task, tables, config, weight, regret_users),
    }
