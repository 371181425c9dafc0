"""The whole constrained beam search as one torch module, written so that it exports to one ONNX graph.

Codes have a fixed length, so the search is unrolled: encode once, then L steps of decode, trie, TopK and cache
reorder. Inputs and outputs are those of `models.graph`. An illegal candidate scores minus infinity and a legal one is
finite, so legality travels in the score; a dead beam has no children, an exhausted place comes out as item -1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import Generator
from .search_network import SearchNetwork

BEAMS = "beams"
_ILLEGAL = float("-inf")


class SearchGraph(nn.Module):
    """Beam search over a generator; forward takes the tensors of `input_names` in that order.

    The beam width is the length of one more input, `beams` int32 [K], so that one export serves every width: the
    exporter replaces it by a constant (`training.export`). The generator's weights are those of this moment.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.config = generator.config
        self.network = SearchNetwork(generator)

    @property
    def input_names(self) -> list[str]:
        levels = range(self.config.code_length)
        per_level = ("child_start", "child_token", "child_offset", "alive", "dead_parent", "dead_offset")
        table = "item_input" if self.config.generator == "temporal" else "item_code"
        names = ["history", "slot", "rescore_weight", "leaf_item", "item_output", table, BEAMS]
        return names + [f"{name}_{level}" for level in levels for name in per_level]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(item int32 [B, K], score float32 [B, K], code_score float32 [B, K], prefix_score float32 [B, K, L])"""
        inputs = dict(zip(self.input_names, tensors, strict=True))
        width = inputs[BEAMS].shape[0]
        encoded = self.network.encode(inputs["history"], inputs)
        logits, written = self.network.start(encoded)
        state, token, score = _first(F.log_softmax(logits[:, 0], dim=-1), width, inputs)
        trail = [(score, torch.zeros_like(state, dtype=torch.int64))]
        for level in range(1, self.config.code_length):
            logits, written = self.network.step(level, token, trail[-1][1], encoded, written)
            state, token, score, parent = _next(level, state, score, F.log_softmax(logits, dim=-1), width, inputs)
            trail.append((score, parent))
        item, score, place = _rank(state, score, encoded.user_state, width, inputs)
        prefix_score = _prefix_scores(trail, place)
        return item, score, prefix_score[..., -1], prefix_score


def _first(log_probs: Tensor, width: int, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Level 0, where every row is at the root and its children are 0 … W - 1.

    log_probs [B, V] → (state int32 [B, K], token int32 [B, K], score float32 [B, K])
    """
    offset, tokens = inputs["child_offset_0"], inputs["child_token_0"]
    exists = offset < inputs["child_start_0"][1]
    child = torch.where(exists, offset, 0)
    legal = F.embedding(inputs["slot"], inputs["alive_0"]).index_select(1, child) > 0
    total = log_probs.index_select(1, tokens.index_select(0, child))
    total = torch.where(exists & legal, total, _ILLEGAL)
    dead = torch.where(inputs["dead_parent_0"] == 0, inputs["dead_offset_0"], offset.shape[0]).long()
    score, place = _best(total, dead, width)
    state = place.to(torch.int32)
    return state, _pick(tokens, state), score


def _next(
    level: int, state: Tensor, score: Tensor, log_probs: Tensor, width: int, inputs: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level further: log_probs [B, K, V] → state, token int32 [B, K], score float32 [B, K], parent int64 [B, K]."""
    start, offset = inputs[f"child_start_{level}"], inputs[f"child_offset_{level}"]
    tokens, alive = inputs[f"child_token_{level}"], inputs[f"alive_{level}"]
    branching = offset.shape[0]
    bounds = F.embedding(torch.stack([state, state + 1], dim=-1), start[:, None])  # [B, K, 2, 1]
    first = bounds[:, :, 0]
    exists = offset < bounds[:, :, 1] - first
    child = torch.where(exists, first + offset, 0).long()
    slot = inputs["slot"].long() * alive.shape[1]  # slots times states may be beyond int32
    legal = exists & (_pick_many(alive.flatten(), child + slot[:, None, None]) > 0)
    total = score[..., None] + log_probs.gather(2, _pick_many(tokens, child).long())
    total = torch.where(legal, total, _ILLEGAL).flatten(1)
    dead = _dead_places(state, branching, inputs[f"dead_parent_{level}"], inputs[f"dead_offset_{level}"])
    score, place = _best(total, dead, width)
    state = child.flatten(1).gather(1, place).to(torch.int32)
    # Looked up rather than divided: the exporter makes eight operations of a division of integers.
    beam = torch.arange(log_probs.shape[1], device=place.device)[:, None].expand(-1, branching).flatten()
    return state, _pick(tokens, state), score, F.embedding(place, beam[:, None]).squeeze(-1)


def _best(total: Tensor, dead: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(score [B, K], place int64 [B, K]) of the best candidates [B, C], those at `dead` int64 [B, …] left out.

    More columns are illegal: TopK finds enough candidates on any catalog, and a dead subtree that this beam does not
    meet is written there (place C). An exhausted place is 0 with a score of minus infinity.
    """
    total = torch.cat([total, total.new_full((total.shape[0], width), _ILLEGAL)], dim=1)
    total = total.scatter(1, dead, torch.full_like(dead, _ILLEGAL, dtype=total.dtype))
    score, place = torch.topk(total, width, dim=1)
    return score, torch.where(score > _ILLEGAL, place, 0)


def _rank(
    leaf: Tensor, code_score: Tensor, user_state: Tensor, width: int, inputs: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """(item int32 [B, K], score float32 [B, K], beam int64 [B, K] that each place holds)"""
    item = _pick(inputs["leaf_item"], leaf)
    item_score = (F.embedding(item, inputs["item_output"]) * user_state[:, None]).sum(dim=-1)
    score, place = torch.topk(code_score + inputs["rescore_weight"] * item_score, width, dim=1)
    item = torch.where(score > _ILLEGAL, item.gather(1, place), -1)
    return item, score, place


def _prefix_scores(trail: list[tuple[Tensor, Tensor]], place: Tensor) -> Tensor:
    """Score after each level of the beams at `place` int64 [B, K], followed back to the root; float32 [B, K, L].

    trail  one entry a level: (score [B, K], the beam of the level before that each beam continues)
    """
    scores: list[Tensor] = []
    for score, parent in reversed(trail):
        scores.insert(0, score.gather(1, place))
        place = parent.gather(1, place)
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
