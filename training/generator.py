"""Stage II: the generator learns to write the next item's code, and is distilled from stage I while it does.

Loss = next-token cross-entropy over the L levels, each token among its siblings (`training.siblings`), + item head
+ λ · IKD. A share of the cross-entropy follows what the item head itself would write (`training.ranking_teacher`).

Start: item embeddings are stage I's, its temporal network is copied, the tokens' output vectors are the additive
parts of the item embeddings, and the decoder's correction is zero. Residual quantization makes user state · item
embedding a sum over levels, so the first step already ranks nearly as stage I does.

In-modality knowledge distillation (IKD): the summary token after the code, projected once per modality, finds its
target among other items' E_C and E_T by InfoNCE. The paper's outline names the purpose only; this shape follows EAGER's
global contrastive task (arXiv 2406.14017) and costs nothing at serving time.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.codes import CodeTable
from models.graph import Inputs, request_inputs, trie_inputs
from models.network import Context, TemporalGenerator, build_generator
from models.quantizer import additive_vectors
from models.search_graph import BEAMS, SearchGraph
from models.trie import CodeTrie

from .batches import Batch, pad_histories
from .collaborative import VALIDATION_USERS, Collaborative, Embeddings, history_input
from .config import TrainingConfig
from .interactions import Holdout, Split
from .losses import Rows, draw_items, item_loss, rows_among, rows_of
from .metrics import ndcg_at, ranks_of_targets
from .package import holdout_rows
from .prefix_values import fit_prefix_output, user_state_count
from .ranking import chunks, sampled_rows
from .ranking_teacher import RankingTeacher
from .siblings import Choice, Siblings

RESCORE_WEIGHTS: Final = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
"""What is tried, each by a search of its own; between neighbours the difference is small."""

_OF_DECODER: Final = (
    *(f"generator.{name}" for name in ("decoder", "begin", "token_output", "project", "gate")),
    "distil",
)
_VALIDATION_WEIGHTS: Final = (10.0, 100.0)
_USERS_AT_ONCE: Final = 256
_LOG = logging.getLogger(__name__)


class GeneratorModel(nn.Module):
    """A generator with the tables that become graph inputs, and the heads that only training needs."""

    codes: Tensor
    collaborative: Tensor
    adapted: Tensor
    integrated: Tensor

    def __init__(self, config: TrainingConfig, embeddings: Embeddings, codes: CodeTable) -> None:
        super().__init__()
        width = config.model.width
        self.frozen = False
        self.generator = build_generator(config.model)
        self.item = nn.Parameter(torch.from_numpy(embeddings.collaborative.copy()))
        self.project = nn.Linear(embeddings.integrated.shape[1], width, bias=False)
        shape = (config.model.code_length, config.model.tokens_per_level, width)
        self.token_input = nn.Parameter(torch.zeros(shape))
        self.distil_collaborative = nn.Linear(width, embeddings.collaborative.shape[1])
        self.distil_semantic = nn.Linear(width, embeddings.adapted.shape[1])
        nn.init.zeros_(self.project.weight)
        tables = {name: torch.from_numpy(table) for name, table in vars(embeddings).items()}
        self.register_buffer("integrated", tables["integrated"], persistent=False)
        for name in ("collaborative", "adapted"):  # distillation compares directions
            self.register_buffer(name, F.normalize(tables[name], dim=1), persistent=False)
        self.register_buffer("codes", torch.from_numpy(codes.tokens).long(), persistent=False)

    @property
    def temporal(self) -> bool:
        """Whether histories are read item by item, and not as codes alone."""
        return isinstance(self.generator, TemporalGenerator)

    def item_input(self, items: Tensor, own: Rows | None = None) -> Tensor:
        """What items int64 [...] add to a history, [..., D]: ID embedding (of `own`), integrated one, code tokens."""
        tokens = self.codes[items]
        levels = range(tokens.shape[-1])
        by_level = [F.embedding(tokens[..., level], self.token_input[level]) for level in levels]
        own = own or rows_of(self.item)
        mine = history_input(own(items)) + self.project(self.integrated[items])
        return mine + torch.stack(by_level).sum(dim=0)

    def predict(self, batch: Batch, own: Rows) -> tuple[Context, Tensor]:
        """(contexts of P positions, their target items int64 [P]), from ID embeddings `own`.

        The temporal generator learns from every position of a window; the encoder–decoder reads one random prefix of
        each, as every position would cost it an encoder pass of its own.
        """
        if isinstance(self.generator, TemporalGenerator):
            real = batch.history >= 0
            states = self.generator.states(self.item_input(batch.history.clamp(min=0), own), real)
            return Context(states[real]), batch.target[real]
        history, target = _random_prefixes(batch)
        return self.generator.encode(history, {"item_code": self.codes}), target

    def user_states(self, histories: list[NDArray[np.int32]]) -> Tensor:
        """What multiplies an item vector, [B, D], for any histories."""
        length = self.generator.config.history_length
        history = pad_histories([one[-length:] for one in histories]).to(self.item.device)
        with torch.no_grad():
            if not self.temporal:
                return self.generator.encode(history, {"item_code": self.codes}).user_state
            # Of the items that occur alone: a table of all would be gigabytes for a handful of histories.
            items, row = history.clamp(min=0).unique(return_inverse=True)
            known = torch.where(history >= 0, row, -1)
            return self.generator.encode(known, {"item_input": self.item_input(items)}).user_state

    def distilled(self, state: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """What a state [P, D] is distilled into, by modality: (directions [P, D_M], those of all items [N, D_M])."""
        return {
            "collaborative": (F.normalize(self.distil_collaborative(state), dim=1), self.collaborative),
            "semantic": (F.normalize(self.distil_semantic(state), dim=1), self.adapted),
        }

    def start_from(self, stage1: Collaborative, codes: CodeTable) -> None:
        """Begins where stage I ended."""
        parts = torch.from_numpy(additive_vectors(self.item.detach().numpy(), codes))
        with torch.no_grad():
            self.generator.token_output.copy_(parts)
            if isinstance(self.generator, TemporalGenerator):
                self.generator.without_correction()
                self.generator.decoder.token.copy_(parts)
                if stage1.temporal is not None:
                    self.generator.temporal.load_state_dict(stage1.temporal.state_dict())

    def freeze(self) -> None:
        """Keeps what makes user states and item scores; decoder, tokens' output vectors and distillation learn on."""
        self.frozen = True
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(_OF_DECODER))

    def train(self, mode: bool = True) -> Self:
        """What is frozen says in training what it says when it serves, without dropout."""
        super().train(mode)
        if self.frozen:
            for name, part in self.generator.named_children():
                part.train(mode and f"generator.{name}".startswith(_OF_DECODER))
        return self

    def tables(self) -> Inputs:
        """item_input and item_output float32 [N, D], item_code int32 [N, L]."""
        with torch.no_grad():
            every = torch.arange(len(self.item), device=self.item.device)
            rows = [self.item_input(part).cpu().numpy() for part in every.split(65_536)]
        return {
            "item_input": np.concatenate(rows),
            "item_output": self.item.detach().cpu().numpy().copy(),
            "item_code": self.codes.int().cpu().numpy(),
        }


class GeneratorTask:
    """Stage II as the loop trains it."""

    def __init__(self, model: GeneratorModel, config: TrainingConfig, split: Split, codes: CodeTable) -> None:
        self.model = model
        self.config = config
        self.split = split
        self.codes = codes
        self.trie = CodeTrie.build(codes)
        self._weights = _VALIDATION_WEIGHTS if config.item_weight else (0.0,)
        if self.trie.item_count > config.softmax_items:
            _LOG.info(
                "%d items are more than softmax_items=%d: losses compare with %d drawn ones, codes with themselves",
                self.trie.item_count, config.softmax_items, config.sampled_items,
            )  # fmt: skip
        self._finished: Inputs | None = None
        self._item_output: Tensor | None = None
        self._siblings: Siblings | None = None
        self._taught_by: RankingTeacher | None = None

    def finish_items(self, tables: Inputs) -> None:
        """What items are does not change any more; `tables` as `GeneratorModel.tables` gives them."""
        self._finished = self.search_tables(tables)
        self._item_output = torch.from_numpy(tables["item_output"])

    @property
    def finished(self) -> Inputs:
        """What a search of the finished model reads of items and prefixes."""
        assert self._finished is not None, "items are not finished"
        return self._finished

    def leave_to_decoder(self) -> None:
        """From now on only the decoder learns, from items that are finished, and is validated by what it writes."""
        self.model.freeze()
        self._weights = (0.0,)

    def samples(self, batch: Batch) -> int:
        """Predictions that the whole batch teaches."""
        return batch.targets if self.model.temporal else batch.windows

    def loss(self, batch: Batch) -> Tensor:
        sample = self._drawn(batch)
        rows = self._rows(batch, sample)
        context, target = self.model.predict(batch, rows)
        likely = self._likely(context.user_state)
        if likely is not None and self.model.frozen and self.config.ranking_weight == 1:
            target = self._teacher(target.device).drawn(likely)
        logits, summary = self.model.generator.teacher_forced(context, self.model.codes[target])
        loss = self._code_loss(logits, likely, target)
        if self._head_learns:
            head = item_loss(context.user_state, target, rows, len(self.model.item), sample)
            loss = loss + self.config.item_weight * head
        if self.config.ikd_weight:
            loss = loss + self.config.ikd_weight * self._distillation(summary, target)
        return loss / self.samples(batch)

    @property
    def _head_learns(self) -> bool:
        return self.config.item_weight > 0 and not self.model.frozen

    def _drawn(self, batch: Batch) -> Tensor | None:
        """Items that the item head compares targets with, int64 [S]; None for all, and where it does not learn."""
        if not self._head_learns:
            return None
        limit, sampled = self.config.softmax_items, self.config.sampled_items
        return draw_items(len(self.model.item), limit, sampled, batch.history.device)

    def _rows(self, batch: Batch, sample: Tensor | None) -> Rows:
        """ID embeddings: those that the batch and its sample name, looked up once, or of any items."""
        rows = rows_of(self.model.item)
        if sample is None:
            return rows
        named = [batch.target, sample, *([batch.history] if self.model.temporal else [])]
        return rows_among(rows, torch.cat([items.flatten() for items in named]).clamp(min=0))

    def siblings(self, device: torch.device) -> Siblings:
        """Of the codes, on a device."""
        if self._siblings is None or self._siblings.device != device:
            self._siblings = Siblings(self.trie, device)
        return self._siblings

    def _code_loss(self, logits: list[Tensor], likely: Tensor | None, target: Tensor) -> Tensor:
        """Cross-entropy of every token among its siblings, summed."""
        choices = self.siblings(target.device).of(target)
        wanted = self._wanted(choices, likely)
        levels = [
            F.cross_entropy(choice.scores(part), one, reduction="sum")
            for part, choice, one in zip(logits, choices, wanted, strict=True)
        ]
        return torch.stack(levels).sum()

    def _wanted(self, choices: list[Choice], likely: Tensor | None) -> list[Tensor]:
        """Targets of every level, [P, C]: the codes, and in part what the item head would write."""
        share = self.config.ranking_weight
        own = [choice.smoothed(self.config.label_smoothing) for choice in choices]
        if likely is None:
            return own
        taught = self._teacher(likely.device).targets(likely, choices)
        return [(1 - share) * one + share * other for one, other in zip(own, taught, strict=True)]

    def _likely(self, user_state: Tensor) -> Tensor | None:
        """What the item head says of every leaf, [P, N]; None where codes are learned from codes alone."""
        if not self.config.ranking_weight or len(self.model.item) > self.config.softmax_items:
            return None
        return self._teacher(user_state.device).likely(user_state, self._item_vectors())

    def _teacher(self, device: torch.device) -> RankingTeacher:
        if self._taught_by is None or self._taught_by.device != device:
            self._taught_by = RankingTeacher(self.trie, device)
        return self._taught_by

    def _item_vectors(self) -> Tensor:
        """[N, D], what user states are multiplied with: learned, or those of finished items."""
        if self._item_output is None:
            return self.model.item
        self._item_output = self._item_output.to(self.model.item.device)
        return self._item_output

    def _distillation(self, summary: Tensor, target: Tensor) -> Tensor:
        """InfoNCE of the summary token against the target's embedding, once per modality, summed."""
        sampled = self.config.sampled_items
        losses = []
        for mine, items in self.model.distilled(summary).values():
            sample = draw_items(len(items), sampled, sampled, items.device)
            losses.append(item_loss(mine / self.config.ikd_temperature, target, rows_of(items), len(items), sample))
        return torch.stack(losses).sum()

    def validate(self) -> float:
        """NDCG@10 of the beam search, history masked, at the better of two weights, as the final one is decided after
        training; of codes alone where there is no item head, or where it does not learn any more."""
        tables = self._finished or self.search_tables()
        return max(self.ndcg(weight, tables) for weight in self._weights)

    def ndcg(self, weight: float, tables: Inputs) -> float:
        """Of a sample of validation users, history masked."""
        found = eager_search(
            self.model, self.trie, self.split.valid, self.config, tables, weight, limit=VALIDATION_USERS
        )
        rows = sampled_rows(self.split.valid, VALIDATION_USERS)
        return ndcg_at(ranks_of_targets(found.items, self.split.valid.target[rows]), 10)

    def best_weight(self, tables: Inputs) -> float:
        """Of RESCORE_WEIGHTS, by NDCG@10 on a sample of validation users; the smallest of equals."""
        found = {weight: self.ndcg(weight, tables) for weight in RESCORE_WEIGHTS}
        shown = ", ".join(f"{weight:g}: {ndcg:.4f}" for weight, ndcg in found.items())
        _LOG.info("rescoring: validation NDCG@10 by weight: %s", shown)
        return max(found, key=lambda weight: (found[weight], -weight))

    def search_tables(self, tables: Inputs | None = None) -> Inputs:
        """What items are, by default as the model has learned it, and what prefixes are worth then."""
        tables = tables or self.model.tables()
        return tables | fit_prefix_output(self.trie, tables["item_output"], self._user_states()).inputs()

    def _user_states(self) -> Tensor:
        """[C, D]: of validation users, each at some moment of the past."""
        valid, random = self.split.valid, np.random.default_rng(0)
        limit = user_state_count(self.trie.item_count, self.config.model.width, VALIDATION_USERS)
        histories = [valid.history(row) for row in sampled_rows(valid, limit).tolist()]
        earlier = [history[: random.integers(1, len(history) + 1)] for history in histories]
        parts = [earlier[begin : begin + _USERS_AT_ONCE] for begin in range(0, len(earlier), _USERS_AT_ONCE)]
        return torch.cat([self.model.user_states(part) for part in parts])


@dataclass(frozen=True)
class SearchScores:
    """What searches found, best first, [M, K]: items int32 (-1 absent), score and code_score float32."""

    items: NDArray[np.int32]
    score: NDArray[np.float32]
    code_score: NDArray[np.float32]


def eager_search(
    model: GeneratorModel,
    trie: CodeTrie,
    holdout: Holdout,
    config: TrainingConfig,
    tables: Inputs,
    weight: float,
    *,
    limit: int | None = None,
) -> SearchScores:
    """Constrained beam search in torch, history masked, for all rows of a holdout or a sample of `limit`.

    tables  as `GeneratorTask.search_tables` gives them
    weight  of rescoring
    """
    search, device = SearchGraph(model.generator, skip_decided=True), model.item.device
    fixed: Inputs = trie_inputs(trie) | tables | {BEAMS: np.zeros(config.default_beam_width, dtype=np.int32)}
    catalog = {name: torch.from_numpy(np.array(array)).to(device) for name, array in fixed.items()}
    parts: list[list[NDArray[Any]]] = []
    for rows in chunks(sampled_rows(holdout, limit)):
        batch = holdout_rows(holdout, rows, trie, masked=True)
        asked = request_inputs(batch, config.model.history_length, trie.code_length, weight)
        inputs = catalog | {name: torch.from_numpy(array).to(device) for name, array in asked.items()}
        with torch.no_grad():
            found = search(*(inputs[name] for name in search.input_names))
        parts.append([tensor.cpu().numpy() for tensor in found[:3]])
    return SearchScores(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _random_prefixes(batch: Batch) -> tuple[Tensor, Tensor]:
    """One prediction per window: history [B, T] cut at a random place and moved to the right, target [B]."""
    length = batch.history.shape[1]
    sizes = (batch.history >= 0).sum(dim=1)
    dropped = (torch.rand(len(sizes), device=sizes.device) * sizes).long()  # newest inputs left out, 0 … size - 1
    place = torch.arange(length, device=sizes.device)[None] - dropped[:, None]
    history = torch.where(place >= 0, batch.history.gather(1, place.clamp(min=0)), -1)
    return history, batch.target.gather(1, (length - 1 - dropped)[:, None])[:, 0]
