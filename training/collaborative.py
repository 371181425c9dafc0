"""Stage I: a sequential recommender trained jointly with cross-modality alignment (CKA).

L = L_next + λ · L_CKA: while the recommender learns who takes what after what, InfoNCE pulls an item's collaborative
embedding E_C and its adapted text embedding E_T = AdaLN(W · E_S + b) together, so E_C itself moves (PRORec,
arXiv 2502.06269, outline; temperature, λ, negatives and sizes are ours). The recommender is a temporal transformer or
DIN (arXiv 1706.06978), as in the paper. With `item_text` E_C is a vector of the item's own plus a linear map of its
text, so that what one item's events teach is known of items with a text like it (ours; features beside an ID's vector
are usual in rankers).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.network import TemporalEncoder

from .batches import Batch, pad_histories
from .config import Integrated, TrainingConfig
from .interactions import Split
from .losses import Rows, draw_items, info_nce, item_loss, rows_among, rows_of
from .metrics import ndcg_at
from .ranking import Scores, full_ranks
from .ridge import fit_ridge

VALIDATION_USERS = 4096
_DIN_NEGATIVES = 64
_DIN_ITEMS = 4096  # scored at once, for memory
_RIDGE = 1e-2
_SMALL = 0.02  # spread of item vectors before training


def history_input(vectors: Tensor) -> Tensor:
    """What item vectors [..., D] add to a history: √D times as much as to a score.

    So a table can begin small, where an item that few users touch is not mostly chance, and still outweigh positions
    and the layers' first corrections (as in the implementation published with SASRec, arXiv 1808.09781).
    """
    return vectors * vectors.shape[-1] ** 0.5


class AdaptationLayer(nn.Module):
    """E_T = AdaLN(W · E_S + b): a linear map and a LayerNorm whose scale and shift are learned."""

    def __init__(self, semantic_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(semantic_width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, semantic: Tensor) -> Tensor:
        """[N, D_S] → [N, D]."""
        adapted: Tensor = self.norm(self.linear(semantic))
        return adapted


class TargetAttention(nn.Module):
    """DIN: the history pooled by its relevance to each candidate, then a small network scores the pair."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.relevance = nn.Sequential(nn.Linear(4 * width, 64), nn.PReLU(), nn.Linear(64, 1))
        self.score = nn.Sequential(nn.Linear(3 * width, 64), nn.PReLU(), nn.Linear(64, 1))

    def forward(self, history: Tensor, real: Tensor, candidates: Tensor) -> Tensor:
        """history [B, T, D], real bool [B, T], candidates [B, C, D] → scores [B, C]."""
        weight = torch.where(real[:, None], self._relevance(history, candidates), 0.0)  # as published: not normalised
        pooled = weight @ history
        scores: Tensor = self.score(torch.cat([pooled, candidates, pooled * candidates], dim=-1))[..., 0]
        return scores

    def _relevance(self, history: Tensor, candidates: Tensor) -> Tensor:
        """How much each candidate has to do with each event, [B, C, T].

        The first layer reads event, candidate, their difference and their product. Only the product is different for
        every pair: the rest is computed once an event or once a candidate, and nothing of width 4 · D is ever made.
        """
        first = self.relevance[0]
        assert isinstance(first, nn.Linear)
        of_event, of_candidate, of_difference, of_product = first.weight.split(history.shape[-1], dim=1)
        by_event = F.linear(history, of_event + of_difference)  # [B, T, 64]
        by_candidate = F.linear(candidates, of_candidate - of_difference, first.bias)  # [B, C, 64]
        through = (history[:, :, None] * of_product).flatten(1, 2)  # [B, T · 64, D]
        by_pair = (candidates @ through.transpose(1, 2)).unflatten(2, by_event.shape[1:])  # [B, C, T, 64]
        inner = by_pair + by_event[:, None] + by_candidate[:, :, None]
        relevance: Tensor = self.relevance[1:](inner)[..., 0]
        return relevance


class Collaborative(nn.Module):
    """Item embeddings E_C, a recommender over them, and the adaptation layer of the text."""

    semantic: Tensor

    def __init__(self, config: TrainingConfig, item_count: int, semantic: Tensor) -> None:
        super().__init__()
        width = config.model.width
        spread = _SMALL if config.recommender == "temporal" else width**-0.5
        self.item = nn.Parameter(torch.randn(item_count, width) * spread)
        self.register_buffer("semantic", semantic, persistent=False)
        self.adaptation = AdaptationLayer(semantic.shape[1], width)
        self.gate = nn.Linear(2 * width, width) if config.integrated == "gate" else None
        if self.gate is not None:  # E_T begins as small as E_C, or it would be all that is seen of an item
            nn.init.constant_(self.adaptation.norm.weight, spread)
        self.temporal = TemporalEncoder(config.model) if config.recommender == "temporal" else None
        self.din = TargetAttention(width) if config.recommender == "din" else None
        self.text = nn.Linear(semantic.shape[1], width, bias=False) if config.item_text else None
        if self.text is not None:
            nn.init.normal_(self.text.weight, std=spread * semantic.shape[1] ** -0.5)

    def collaborative(self, items: Tensor | None = None) -> Tensor:
        """E_C of all items, [N, D], or of some, int64 [...] → [..., D]."""
        own = self.item if items is None else F.embedding(items, self.item)
        return own if self.text is None else own + self.text(self._semantic(items))

    def items(self, items: Tensor | None = None) -> Tensor:
        """What is recommended from: E_C, or with a gate g: g · E_C + (1 - g) · E_T; shapes as of `collaborative`."""
        own = self.collaborative(items)
        if self.gate is None:
            return own
        adapted = self.adaptation(self._semantic(items))
        gate = torch.sigmoid(self.gate(torch.cat([own, adapted], dim=-1)))
        return gate * own + (1 - gate) * adapted

    def _semantic(self, items: Tensor | None) -> Tensor:
        return self.semantic if items is None else F.embedding(items, self.semantic)

    def scores(self, history: Tensor, table: Tensor) -> Tensor:
        """history int64 [B, T], padded with -1 on the left, `table` [N, D] as of `items` → scores [B, N]."""
        real = history >= 0
        past = F.embedding(history.clamp(min=0), table)
        if self.temporal is not None:
            states: Tensor = self.temporal(history_input(past), real, last_only=True)[:, 0]
            return states @ table.T
        return torch.cat([self._din_scores(past[row, real[row]], table) for row in range(len(past))])

    def _din_scores(self, history: Tensor, table: Tensor) -> Tensor:
        """One history [T, D] against all items [N, D] → [1, N]: alone it needs no padding, which would cost as much."""
        assert self.din is not None
        real = torch.ones(1, len(history), dtype=torch.bool, device=history.device)
        return torch.cat([self.din(history[None], real, part[None]) for part in table.split(_DIN_ITEMS)], dim=1)


class CollaborativeTask:
    """Stage I as the loop trains it."""

    def __init__(self, model: Collaborative, config: TrainingConfig, split: Split) -> None:
        self.model = model
        self.config = config
        self.split = split

    def samples(self, batch: Batch) -> int:
        """Predictions that the whole batch teaches."""
        return batch.windows if self.model.temporal is None else batch.targets

    def loss(self, batch: Batch) -> Tensor:
        sample = self._drawn(batch)
        rows = self._rows(batch, sample)
        loss_of = self._din_loss if self.model.temporal is None else self._temporal_loss
        loss = loss_of(batch, rows, sample) / self.samples(batch)
        if self.config.cka_weight:
            loss = loss + self.config.cka_weight * self._alignment_loss(batch, rows)
        return loss

    def _drawn(self, batch: Batch) -> Tensor | None:
        """Items that targets are compared with: int64 [S], for DIN [B, S]; None for all."""
        item_count, device = len(self.model.item), batch.history.device
        if self.model.temporal is None:
            return torch.randint(item_count, (len(batch.history), _DIN_NEGATIVES), device=device)
        return draw_items(item_count, self.config.softmax_items, self.config.sampled_items, device)

    def _rows(self, batch: Batch, sample: Tensor | None) -> Rows:
        """Item vectors, made once: all where the softmax needs them, else those that the batch and its sample name."""
        if sample is None:
            return rows_of(self.model.items())
        named = [batch.history, batch.target, batch.items, sample]
        return rows_among(self.model.items, torch.cat([items.flatten() for items in named]).clamp(min=0))

    def _temporal_loss(self, batch: Batch, rows: Rows, sample: Tensor | None) -> Tensor:
        assert self.model.temporal is not None
        real = batch.history >= 0
        states = self.model.temporal(history_input(rows(batch.history.clamp(min=0))), real)
        return item_loss(states[real], batch.target[real], rows, len(self.model.item), sample)

    def _din_loss(self, batch: Batch, rows: Rows, negatives: Tensor | None) -> Tensor:
        """The newest target of each window against items drawn evenly, as a softmax."""
        assert self.model.din is not None
        assert negatives is not None
        real = batch.history >= 0
        candidates = torch.cat([batch.target[:, -1:], negatives], dim=1)
        scores = self.model.din(rows(batch.history.clamp(min=0)), real, rows(candidates))
        scores[:, 1:] = scores[:, 1:].masked_fill(negatives == candidates[:, :1], -torch.inf)
        return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.int64), reduction="sum")

    def _alignment_loss(self, batch: Batch, rows: Rows) -> Tensor:
        items = batch.items[: self.config.sampled_items]
        own = rows(items) if self.model.gate is None else self.model.collaborative(items)
        adapted = self.model.adaptation(self.model.semantic[items])
        return info_nce(own, adapted, self.config.cka_temperature, batch.piece, batch.pieces)

    def validate(self) -> float:
        ranks = full_ranks(self.split.valid, self.rank_scores(), mask_history=True, limit=VALIDATION_USERS)
        return ndcg_at(ranks, 10)

    def rank_scores(self) -> Scores:
        """Scores of the model as it is now, for any histories: its item vectors are made once."""
        length = self.config.model.history_length
        with torch.no_grad():
            table = self.model.items()

        def scores(histories: list[NDArray[np.int32]]) -> Tensor:
            padded = pad_histories([history[-length:] for history in histories])
            return self.model.scores(padded.to(table.device), table)

        return scores


def fused_embeddings(model: Collaborative, config: TrainingConfig, trained: NDArray[np.bool_]) -> "Embeddings":
    """What stage II and the quantizer take from a trained stage I; items not `trained` get their E_C from E_T."""
    warm = torch.from_numpy(trained)
    with torch.no_grad():
        adapted = model.adaptation(model.semantic)
        collaborative = model.items().detach().clone()
        if not bool(warm.all()):
            collaborative[~warm] = collaborative_from_text(model, warm)(adapted[~warm])
        integrated = integrate(config.integrated, collaborative, adapted, model.semantic)
    return Embeddings(collaborative.numpy(), adapted.numpy(), integrated.numpy())


def collaborative_from_text(model: Collaborative, warm: Tensor) -> nn.Linear:
    """E_T → E_C, by a ridge regression over the items that were trained, bool [N]."""
    with torch.no_grad():
        return fit_ridge(model.adaptation(model.semantic[warm]), model.items()[warm], _RIDGE)


def integrate(kind: Integrated, collaborative: Tensor, adapted: Tensor, semantic: Tensor) -> Tensor:
    """The integrated embedding [N, D_I] from E_C [N, D] (gated already where there is a gate), E_T [N, D] and the
    standardised E_S [N, D_S]."""
    if kind == "concat":
        return torch.cat([F.normalize(collaborative, dim=1), F.normalize(adapted, dim=1)], dim=1)
    if kind == "naive":
        return torch.cat([F.normalize(collaborative, dim=1), F.normalize(semantic, dim=1)], dim=1)
    return semantic if kind == "semantic" else collaborative


@dataclass(frozen=True)
class Embeddings:
    """float32, row by item index: collaborative E_C [N, D], adapted text E_T [N, D], integrated [N, D_I]."""

    collaborative: NDArray[np.float32]
    adapted: NDArray[np.float32]
    integrated: NDArray[np.float32]
