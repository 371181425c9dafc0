"""The whole constrained beam search as one torch module, written so that it exports to one ONNX graph.

Codes have a fixed length, so the search is unrolled: encode once, then L steps of decode, trie, TopK and cache
reorder. Inputs and outputs are those of `models.graph`. An illegal candidate scores minus infinity and a legal one is
finite, so legality travels in the score; a dead beam has no children, an exhausted place comes out as item -1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import Cache, Generator

BEAMS = "beams"
_ILLEGAL = float("-inf")


class SearchGraph(nn.Module):
    """Beam search over a generator; forward takes the tensors of `input_names` in that order.

    The beam width is the length of one more input, `beams` int32 [K], so that one export serves every width: the
    exporter replaces it by a constant (`training.export`).
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    @property
    def input_names(self) -> list[str]:
        levels = range(self.generator.config.code_length)
        per_level = ("child_start", "child_token", "child_offset", "alive", "dead_parent", "dead_offset")
        table = "item_input" if self.generator.config.generator == "temporal" else "item_code"
        names = ["history", "slot", "rescore_weight", "leaf_item", "item_output", table, BEAMS]
        return names + [f"{name}_{level}" for level in levels for name in per_level]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(item int32 [B, K], score float32 [B, K], code_score float32 [B, K], prefix_score float32 [B, K, L])"""
        inputs = dict(zip(self.input_names, tensors, strict=True))
        context = self.generator.encode(inputs["history"], inputs)
        rows = inputs["history"].shape[0]
        state = torch.zeros(rows, 1, dtype=torch.int32, device=inputs["history"].device)
        score = torch.zeros(rows, 1, device=state.device)
        tokens: Tensor | None = None
        cache: Cache = ()
        trail: list[tuple[Tensor, Tensor]] = []
        for level in range(self.generator.config.code_length):
            logits, cache = self.generator.step(level, tokens, context, cache)
            log_probs = F.log_softmax(logits.float(), dim=-1)
            child, token, total = self._expand(level, state, score, log_probs, inputs)
            score, place = torch.topk(total, inputs[BEAMS].shape[0], dim=1)
            place = torch.where(score > _ILLEGAL, place, 0)
            beam = place // inputs[f"child_offset_{level}"].shape[0]
            state, tokens = child.gather(1, place), token.gather(1, place)
            trail.append((score, beam))
            if level + 1 < self.generator.config.code_length:
                cache = _reorder(cache, beam)
        item, score, place = self._rank(state, score, context.user_state, inputs)
        prefix_score = _prefix_scores(trail, place)
        return item, score, prefix_score[..., -1], prefix_score

    def _expand(
        self, level: int, state: Tensor, score: Tensor, log_probs: Tensor, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All children of all beams, flat: (state [B, K·W], token [B, K·W], score [B, K·W + width]).

        The extra columns are illegal: TopK finds enough candidates on any catalog, and what has nothing to mask in
        this beam is written there.
        """
        start, offset = inputs[f"child_start_{level}"], inputs[f"child_offset_{level}"]
        first = _pick(start, state)[..., None]
        exists = offset < _pick(start, state + 1)[..., None] - first
        child = torch.where(exists, first + offset, 0)
        token = _pick(inputs[f"child_token_{level}"], child)
        alive = inputs[f"alive_{level}"]
        slot = inputs["slot"].long() * alive.shape[1]  # slots times states may be beyond int32
        legal = _pick(alive.flatten(), child + slot[:, None, None]) > 0
        total = score[..., None] + log_probs.gather(2, token.long())
        total = torch.where(exists & legal, total, _ILLEGAL).flatten(1)
        total = torch.cat([total, total.new_full((total.shape[0], inputs[BEAMS].shape[0]), _ILLEGAL)], dim=1)
        place = _dead_places(state, offset.shape[0], inputs[f"dead_parent_{level}"], inputs[f"dead_offset_{level}"])
        total = total.scatter(1, place, torch.full_like(place, _ILLEGAL, dtype=total.dtype))
        return child.flatten(1), token.flatten(1), total

    def _rank(
        self, leaf: Tensor, code_score: Tensor, user_state: Tensor, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(item int32 [B, K], score float32 [B, K], beam int64 [B, K] that each place holds)"""
        item = _pick(inputs["leaf_item"], leaf)
        item_score = (F.embedding(item, inputs["item_output"]) * user_state[:, None]).sum(dim=-1)
        score, place = torch.topk(code_score + inputs["rescore_weight"] * item_score, inputs[BEAMS].shape[0], dim=1)
        item = torch.where(score > _ILLEGAL, item.gather(1, place), -1)
        return item, score, place


def _prefix_scores(trail: list[tuple[Tensor, Tensor]], place: Tensor) -> Tensor:
    """Score after each level of the beams at `place` int64 [B, K], followed back to the root; float32 [B, K, L].

    trail  one entry a level: (score [B, K], the beam of the level before that each beam continues)
    """
    scores: list[Tensor] = []
    for score, beam in reversed(trail):
        scores.insert(0, score.gather(1, place))
        place = beam.gather(1, place)
    return torch.stack(scores, dim=-1)


def _pick(array: Tensor, index: Tensor) -> Tensor:
    """array [S] at index int32 [...]."""
    return array.index_select(0, index.flatten()).reshape(index.shape)


def _dead_places(state: Tensor, branching: int, parent: Tensor, offset: Tensor) -> Tensor:
    """Flat candidate of every dead subtree whose parent is in the beam, else the first column after the candidates.

    state int32 [B, K], parent and offset int32 [B, X] → int64 [B, X].
    """
    match = state[:, :, None] == parent[:, None, :]
    beam = match.int().argmax(dim=1)
    place = beam * branching + offset
    return torch.where(match.any(dim=1), place, state.shape[1] * branching)


def _reorder(cache: Cache, beam: Tensor) -> Cache:
    """Gives every new beam int64 [B, K] the cache of the beam it came from."""
    rows, before = beam.shape[0], cache[0][0].shape[0] // beam.shape[0]
    flat = (torch.arange(rows, device=beam.device)[:, None] * before + beam).flatten()
    return tuple((keys.index_select(0, flat), values.index_select(0, flat)) for keys, values in cache)
