"""The whole constrained beam search as one torch module, written so that it exports to one ONNX graph.

Codes have a fixed length, so the search is unrolled: encode once, then L steps of decode, trie, TopK and cache
reorder. Inputs and outputs are those of `models.graph`. An illegal candidate scores less than any legal one can, so
legality travels in the score; a dead beam has no legal child, an exhausted place comes out as item -1.
The rules are those of `models.beam`: the item head values prefixes at every level, and not only the items at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .beam import shortlist
from .network import Generator
from .search_network import Encoded, Open, OpenWritten, SearchNetwork, Written

BEAMS = "beams"
OPEN_FROM: Final = 2
"""The level from which beams may be decided: at level 1 nearly every first token leaves several items."""
_ILLEGAL: Final = -1e30
"""Below every score, and so large that adding a score leaves it as it is. Above what ONNX Runtime's TopK pads with on
CUDA, the least float32, which it would otherwise rank before candidates of minus infinity."""


class SearchGraph(nn.Module):
    """Beam search over a generator; forward takes the tensors of `input_names` in that order.

    The beam width is the length of one more input, `beams` int32 [K], so that one export serves every width: the
    exporter replaces it by a constant (`training.export`). The generator's weights are those of this moment.

    With `skip_decided` the network is asked about open beams alone, from level `OPEN_FROM` on: the same answers, for
    less, but by tensors whose sizes depend on the answers, which a captured CUDA graph cannot have.
    """

    def __init__(self, generator: Generator, *, skip_decided: bool = False) -> None:
        super().__init__()
        self.config = generator.config
        self.network = SearchNetwork(generator)
        self.skip_decided = skip_decided

    @property
    def input_names(self) -> list[str]:
        levels = range(self.config.code_length)
        per_level = ("child_start", "child_token", "child_offset", "alive", "dead_parent", "dead_offset")
        table = "item_input" if self.config.generator == "temporal" else "item_code"
        names = ["history", "slot", "rescore_weight", "leaf_item", "item_output", "prefix_output", table, BEAMS]
        names += [f"prefix_row_{level}" for level in levels[:-1]]
        return names + [f"{name}_{level}" for level in levels for name in per_level]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(item int32 [B, K], score float32 [B, K], code_score float32 [B, K], prefix_score float32 [B, K, L])"""
        inputs = dict(zip(self.input_names, tensors, strict=True))
        width = inputs[BEAMS].shape[0]
        encoded = self.network.encode(inputs["history"], inputs)
        guide = Guide(encoded.user_state, self.config.code_length, inputs)
        logits, written = self.network.start(encoded)
        beams = _first(logits[:, 0], width, guide, inputs)
        trail, of_open = [beams], cast("OpenWritten | None", None)
        for level in range(1, self.config.code_length):
            children = children_of(level, beams, inputs)
            if self.skip_decided and level >= OPEN_FROM:
                step, of_open = self._step_open(level, beams, children, encoded, of_open or written, inputs)
            else:
                logits, written = self.network.step(level, beams.token, beams.parent, encoded, written)
                step = _log_probs(logits, inputs[f"child_token_{level}"], children.child, children.exists)
            beams = _next(level, beams, children, step, width, guide, inputs)
            trail.append(beams)
        item = torch.where(beams.score > _ILLEGAL, _pick(inputs["leaf_item"], beams.state), -1)
        return item, beams.score, beams.code_score, _prefix_scores(trail)

    def _step_open(
        self,
        level: int,
        beams: "Beams",
        children: "Children",
        encoded: Encoded,
        written: Written | OpenWritten,
        inputs: dict[str, Tensor],
    ) -> tuple[Tensor, OpenWritten]:
        """Log-probabilities of children [B, K, C]: the network's for open beams, 0 for the only child of the others."""
        below = [inputs[f"child_start_{deeper}"] for deeper in range(level + 1, self.config.code_length)]
        several_left = is_open(beams, children, below)
        still = listed(several_left, beams.parent)
        logits, wrote = self.network.step_open(level, beams.token, still, encoded, written)
        child, exists = (part.flatten(0, 1).index_select(0, still.beam) for part in (children.child, children.exists))
        found = _log_probs(logits, inputs[f"child_token_{level}"], child, exists).index_select(0, still.place)
        return torch.where(several_left[:, None], found, 0.0).reshape(children.child.shape), wrote


@dataclass(frozen=True)
class Beams:
    """The beams after a level, best first; all [B, K].

    state       int32, the trie's
    token       int32, the newest
    parent      int64, the beam of the level before that each continues
    code_score  float32, log-probability of the tokens so far
    score       float32, that and what the item head gives the prefix, times the weight; `_ILLEGAL` where nothing is
    """

    state: Tensor
    token: Tensor
    parent: Tensor
    code_score: Tensor
    score: Tensor


@dataclass(frozen=True)
class Children:
    """What may follow each beam.

    bounds  int32 [B, K, 2], states of the next level from the first child to after the last
    child   int64 [B, K, C], the children's states, 0 where there are fewer
    exists  bool [B, K, C]
    """

    bounds: Tensor
    child: Tensor
    exists: Tensor


class Guide:
    """What the item head gives to prefixes: user state · prefix vector, with the weight of rescoring."""

    def __init__(self, user_state: Tensor, code_length: int, inputs: dict[str, Tensor]) -> None:
        self._user_state = user_state
        self._last = code_length - 1
        self._inputs = inputs

    def of_all(self, level: int, states: Tensor) -> Tensor:
        """States int [W] of one level, the same for all rows → [B, W]."""
        return self._weighted(level, states, lambda vectors: F.linear(self._user_state, vectors))

    def of_each(self, level: int, states: Tensor) -> Tensor:
        """States int [B, S] → [B, S]."""
        return self._weighted(level, states, lambda vectors: (vectors * self._user_state[:, None]).sum(dim=-1))

    def _weighted(self, level: int, states: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """A leaf is worth its item, and so is a prefix that only one item has.

        Of a prefix both scores are made and one is taken: to choose between whole vectors costs more than a product.
        """
        weight, item_output = self._inputs["rescore_weight"], self._inputs["item_output"]
        if level == self._last:
            return weight * score(F.embedding(_pick(self._inputs["leaf_item"], states), item_output))
        row = _pick(self._inputs[f"prefix_row_{level}"], states)
        shared = score(F.embedding((-1 - row).clamp(min=0), self._inputs["prefix_output"]))
        alone = score(F.embedding(row.clamp(min=0), item_output))
        return weight * torch.where(row < 0, shared, alone)


def _first(logits: Tensor, width: int, guide: Guide, inputs: dict[str, Tensor]) -> Beams:
    """Level 0, where every row is at the root and its children are 0 … W - 1; logits [B, V]."""
    offset, tokens = inputs["child_offset_0"], inputs["child_token_0"]
    exists = offset < inputs["child_start_0"][1]
    child = torch.where(exists, offset, 0)
    legal = F.embedding(inputs["slot"], inputs["alive_0"]).index_select(1, child) > 0
    code = _among_siblings(logits.index_select(1, tokens.index_select(0, child)), exists)
    total = torch.where(exists & legal, code + guide.of_all(0, child), _ILLEGAL)
    dead = torch.where(inputs["dead_parent_0"] == 0, inputs["dead_offset_0"], offset.shape[0]).long()
    score, place = _best(total, dead, width)
    code = _where_filled(score, code.gather(1, place))
    state = place.to(torch.int32)
    return Beams(state, _pick(tokens, state), torch.zeros_like(place), code, score)


def children_of(level: int, beams: Beams, inputs: dict[str, Tensor]) -> Children:
    start, offset = inputs[f"child_start_{level}"], inputs[f"child_offset_{level}"]
    bounds = F.embedding(torch.stack([beams.state, beams.state + 1], dim=-1), start[:, None])  # [B, K, 2, 1]
    first = bounds[:, :, 0]
    exists = offset < bounds[:, :, 1] - first
    return Children(bounds.squeeze(-1), torch.where(exists, first + offset, 0).long(), exists)


def is_open(beams: Beams, children: Children, below: list[Tensor]) -> Tensor:
    """Whether more than one item is left to a beam that is there, bool [B · K]; `below`: where children begin, of every
    level below these."""
    bounds = children.bounds
    for start in below:
        bounds = _pick(start, bounds)
    return ((bounds[..., 1] - bounds[..., 0] > 1) & (beams.score > _ILLEGAL)).flatten()


def listed(several_left: Tensor, parent: Tensor) -> Open:
    """Open beams as a list; the first beam is always in it, since a graph may not compute nothing."""
    rows, width = parent.shape
    number = torch.arange(rows * width, device=parent.device)
    chosen = several_left | (number == 0)
    beam = chosen.nonzero()[:, 0]
    # Looked up rather than divided: the exporter makes eight operations of a division of integers.
    row = torch.arange(rows, device=parent.device)[:, None].expand(-1, width).flatten().index_select(0, beam)
    return Open(
        beam, row, row * width + parent.flatten().index_select(0, beam), chosen.to(torch.int64).cumsum(dim=0) - 1
    )


def _next(
    level: int, beams: Beams, children: Children, step: Tensor, width: int, guide: Guide, inputs: dict[str, Tensor]
) -> Beams:
    """One level further; step [B, K, C], log-probabilities of the children.

    First by what is known of all children, their tokens' log-probabilities and their parents' values; of the best of
    them the values of their own.
    """
    tokens, alive = inputs[f"child_token_{level}"], inputs[f"alive_{level}"]
    child, branching = children.child, children.child.shape[2]
    slot = inputs["slot"].long() * alive.shape[1]  # slots times states may be beyond int32
    legal = children.exists & (_pick_many(alive.flatten(), child + slot[:, None, None]) > 0)
    expected = beams.score[..., None] + (1 + inputs["rescore_weight"]) * step
    total = torch.where(legal, expected, _ILLEGAL).flatten(1)
    dead = _dead_places(beams.state, branching, inputs[f"dead_parent_{level}"], inputs[f"dead_offset_{level}"])
    rough, near = _best(total, dead, shortlist(level) * width)
    beam = torch.arange(beams.state.shape[1], device=near.device)[:, None].expand(-1, branching).flatten()
    parent = F.embedding(near, beam[:, None]).squeeze(-1)
    state = child.flatten(1).gather(1, near).to(torch.int32)
    code = _where_filled(rough, beams.code_score.gather(1, parent) + step.flatten(1).gather(1, near))
    score, place = torch.topk(code + guide.of_each(level, state), width, dim=1)
    state, parent, code = (part.gather(1, place) for part in (state, parent, code))
    return Beams(state, _pick(tokens, state), parent, code, score)


def _log_probs(logits: Tensor, tokens: Tensor, child: Tensor, exists: Tensor) -> Tensor:
    """Of the children [..., C] of a state among one another, from logits [..., V]; every state has a child."""
    return _among_siblings(logits.gather(-1, _pick_many(tokens, child).long()), exists)


def _among_siblings(logits: Tensor, exists: Tensor) -> Tensor:
    """logits [..., C], exists bool [..., C]"""
    return F.log_softmax(torch.where(exists, logits, float("-inf")), dim=-1)


def _where_filled(score: Tensor, code_score: Tensor) -> Tensor:
    return torch.where(score > _ILLEGAL, code_score, _ILLEGAL)


def _best(total: Tensor, dead: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(score [B, K], place int64 [B, K]) of the best candidates [B, C], those at `dead` int64 [B, …] left out.

    More columns are illegal: TopK finds enough candidates on any catalog, and a dead subtree that this beam does not
    meet is written there (place C). An exhausted place is 0 with an illegal score.
    """
    total = torch.cat([total, total.new_full((total.shape[0], width), _ILLEGAL)], dim=1)
    total = total.scatter(1, dead, torch.full_like(dead, _ILLEGAL, dtype=total.dtype))
    score, place = torch.topk(total, width, dim=1)
    return score, torch.where(score > _ILLEGAL, place, 0)


def _prefix_scores(trail: list[Beams]) -> Tensor:
    """Log-probability after each level of the last beams, followed back to the root; float32 [B, K, L]."""
    place = torch.arange(trail[-1].state.shape[1], device=trail[-1].state.device).expand_as(trail[-1].parent)
    scores: list[Tensor] = []
    for beams in reversed(trail):
        scores.insert(0, beams.code_score.gather(1, place))
        place = beams.parent.gather(1, place)
    return torch.stack(scores, dim=-1)


def _pick(array: Tensor, index: Tensor) -> Tensor:
    """array [S] at index int [...]."""
    return F.embedding(index, array[:, None]).squeeze(-1)


def _pick_many(array: Tensor, index: Tensor) -> Tensor:
    """The same for many: of single elements ONNX Runtime gathers "elements" six times as fast as rows; index int64."""
    return array.gather(0, index.flatten()).reshape(index.shape)


def _dead_places(state: Tensor, branching: int, parent: Tensor, offset: Tensor) -> Tensor:
    """Flat candidate of every dead subtree under every beam it hangs from, else the first column after the candidates.

    state int32 [B, K], parent and offset int32 [B, X] → int64 [B, K · X]. Comparing alone: a reduction over beams would
    be work for the CPU, because the CUDA provider has no ArgMax of integers and reduces them as floats.
    """
    width = state.shape[1]
    beam = torch.arange(width, device=state.device)[:, None] * branching
    match = state[:, :, None] == parent[:, None, :]
    return torch.where(match, beam + offset[:, None, :], width * branching).flatten(1)
