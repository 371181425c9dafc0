"""A generator as a search runs it: encode a history once, then one level a step for all beams.

Every number equals that of `models.network`, but for rounding; what is arranged otherwise is what it costs:

*  Beams do not carry caches. Keys and values of every level stay where they were computed, [B, 1 + K + K + …, D], and
   each beam sees its own ancestors through a mask, so nothing is reordered and a row's beams are one product.
*  What the first decoder layer reads depends on level and token alone. Its residual, queries, keys and values are
   looked up, as long as V is small enough for such tables.
*  A beam whose tokens leave one item only needs no network any more: each token to come has no sibling, so its
   log-probability is 0. From level 2 on the network can be asked about the other beams alone (`step_open`).
*  What the user state alone decides, the user's side of a gate too, is computed once a row instead of once a beam.
   At levels without a gate the projection before the token output vectors is multiplied into them.
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import Block, EncoderDecoderGenerator, Generator, TemporalGenerator
from .search_layers import HIDDEN, SearchBlock, keep

TABLE_TOKENS = 2048
"""V above which the first layer is computed: tables would be larger than all the rest of the network."""


@dataclass(frozen=True)
class Encoded:
    """A batch of histories.

    user_state  [B, D]
    memory      keys and values [B, M, D] for each decoder layer; empty for the temporal generator
    hidden      [B, 1, 1, M], added to the scores of memory; None without memory
    gate        [B, 1, G], the user's side of the gate; None where the network has none
    """

    user_state: Tensor
    memory: tuple[tuple[Tensor, Tensor], ...] = ()
    hidden: Tensor | None = None
    gate: Tensor | None = None


@dataclass(frozen=True)
class Written:
    """What the beams have written up to now.

    keys, values  [B, P, D] for each decoder layer, P positions: the start and every beam of every level
    lineage       [B, K, P], 0 where a position is the beam itself, its ancestor or the start, else HIDDEN
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lineage: Tensor


@dataclass(frozen=True)
class Open:
    """The R beams of a level that are still open, as a list over the whole batch. All int64.

    beam    [R], number of the beam among all B · K
    row     [R], row of the batch it belongs to
    parent  [R], number of the beam of the level before that it continues, among all B · K
    place   [B · K], where each beam is in this list; of a beam that is not in it, some place
    """

    beam: Tensor
    row: Tensor
    parent: Tensor
    place: Tensor


@dataclass(frozen=True)
class OpenWritten:
    """What open beams and their ancestors have written: keys, values [R, P, D] for each decoder layer, P positions."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    place: Tensor


class TemporalSearchEncoder(nn.Module):
    """`TemporalGenerator.encode`."""

    def __init__(self, generator: TemporalGenerator) -> None:
        super().__init__()
        self.position = generator.temporal.position
        self.blocks = nn.ModuleList(SearchBlock(cast("Block", block)) for block in generator.temporal.blocks)
        self.norm = generator.temporal.norm

    def forward(self, history: Tensor, tables: dict[str, Tensor]) -> Encoded:
        length = history.shape[1]
        x = F.embedding(history.clamp(min=0), tables["item_input"]) + self.position[len(self.position) - length :]
        index = torch.arange(length, device=x.device)
        seen = (index[None, :] <= index[:, None]) & (history >= 0)[:, None, :]
        # A padded position attends to itself, or its softmax would be over nothing.
        seen = (seen | (index[None, :] == index[:, None]))[:, None]
        hidden = torch.where(seen, 0.0, HIDDEN)
        x = x.reshape(-1, x.shape[-1])
        for number, block in enumerate(self.blocks):
            x = cast("SearchBlock", block).encode(x, length, hidden, last_only=number == len(self.blocks) - 1)
        return Encoded(self.norm(x))


class MemorySearchEncoder(nn.Module):
    """`EncoderDecoderGenerator.encode`."""

    def __init__(self, generator: EncoderDecoderGenerator) -> None:
        super().__init__()
        self.code_length, self.tokens = generator.config.code_length, generator.config.tokens_per_level
        keep(self, "token_input", generator.token_input.flatten(0, 1))
        self.position = generator.item_position
        self.blocks = nn.ModuleList(SearchBlock(cast("Block", block)) for block in generator.encoder)
        self.norm = generator.encoder_norm

    def forward(self, history: Tensor, tables: dict[str, Tensor], decoder: list[SearchBlock]) -> Encoded:
        length = history.shape[1] * self.code_length
        code = F.embedding(history.clamp(min=0), tables["item_code"])  # [B, T, L]
        row = code + torch.arange(self.code_length, dtype=code.dtype, device=code.device) * self.tokens
        x = F.embedding(row, cast("Tensor", self.token_input)) + self.position[len(self.position) - history.shape[1] :]
        x = x.reshape(-1, x.shape[-1])
        seen = (history >= 0)[:, :, None].expand(-1, -1, self.code_length).flatten(1)
        # An empty history attends to its padding rather than to nothing; padding is on the left, so its end tells.
        hidden = torch.where(seen | ~seen[:, -1:], 0.0, HIDDEN)[:, None, None]
        bias = hidden.expand(-1, -1, length, -1)
        for block in self.blocks:
            x = cast("SearchBlock", block).encode(x, length, bias)
        x = self.norm(x).reshape(-1, length, x.shape[-1])
        memory = tuple(block.cross.keys_values(x) for block in decoder if block.cross is not None)
        return Encoded(x[:, -1], memory, hidden)


class SearchNetwork(nn.Module):
    """`Generator` without training: `encode`, then `start` and `step` for as many levels as there are."""

    def __init__(self, generator: Generator, *, table_tokens: int = TABLE_TOKENS) -> None:
        super().__init__()
        config = generator.config
        self.code_length = config.code_length
        self.encoder: TemporalSearchEncoder | MemorySearchEncoder
        self.begin: Tensor | None = None
        if isinstance(generator, EncoderDecoderGenerator):
            self.encoder, self.begin = MemorySearchEncoder(generator), generator.begin
        else:
            self.encoder = TemporalSearchEncoder(cast("TemporalGenerator", generator))
        decoder = generator.decoder
        self.blocks = nn.ModuleList(SearchBlock(cast("Block", block)) for block in decoder.blocks)
        self.level, self.token, self.norm = decoder.level, decoder.token, decoder.norm
        self.gate, self.gated = generator.gate, [generator.gated(level) for level in range(config.code_length)]
        self.tabled = config.tokens_per_level <= table_tokens
        with torch.no_grad():
            if self.tabled:
                self._make_tables()
            keep(self, "project", generator.project.weight)
            for level, vectors in enumerate(generator.token_output):
                if not self.gated[level]:
                    keep(self, f"state_output_{level}", vectors @ generator.project.weight)
                keep(self, f"output_bias_{level}", vectors @ generator.project.bias)
                keep(self, f"user_output_{level}", vectors)

    def encode(self, history: Tensor, tables: dict[str, Tensor]) -> Encoded:
        """history int [B, T], padded with -1 on the left; `tables` as in `models.graph`."""
        if isinstance(self.encoder, MemorySearchEncoder):
            encoded = cast("Encoded", self.encoder(history, tables, self._layers()))
        else:
            encoded = cast("Encoded", self.encoder(history, tables))
        return encoded if self.gate is None else replace(encoded, gate=self.gate.user(encoded.user_state)[:, None])

    def start(self, encoded: Encoded) -> tuple[Tensor, Written]:
        """Logits [B, 1, V] of level 0."""
        x = encoded.user_state if self.begin is None else self.begin.expand(encoded.user_state.shape[0], -1)
        x = x + self.level[0]
        keys, values = [], []
        for number, block in enumerate(self._layers()):
            key, value = block.attention.keys_values(block.attention_norm(x))
            keys.append(key[:, None])
            values.append(value[:, None])
            # One position attends to itself alone: its mixed values are its values.
            x = self._finish(number, x + block.attention.project(value), 1, encoded)
        lineage = torch.zeros(x.shape[0], 1, 1, device=x.device)
        return self._logits(0, x, 1, encoded), Written(tuple(keys), tuple(values), lineage)

    def step(
        self, level: int, tokens: Tensor, parent: Tensor, encoded: Encoded, written: Written
    ) -> tuple[Tensor, Written]:
        """Logits [B, K, V] of `level` ≥ 1 for beams whose newest tokens are `tokens` int [B, K].

        parent  int64 [B, K], the beam of the level before that each continues
        """
        beams = tokens.shape[1]
        lineage = _descend(written.lineage, parent)
        keys, values = [], []
        x = torch.empty(0)
        for number, block in enumerate(self._layers()):
            x, asked, key, value = self._read(level, tokens) if number == 0 else self._project(number, x, beams)
            keys.append(torch.cat([written.keys[number], key], dim=1))
            values.append(torch.cat([written.values[number], value], dim=1))
            x = x + block.attention.mix(asked, keys[-1], values[-1], lineage[:, None])
            x = self._finish(number, x, beams, encoded)
        return self._logits(level, x, beams, encoded), Written(tuple(keys), tuple(values), lineage)

    def step_open(
        self, level: int, tokens: Tensor, beams: Open, encoded: Encoded, written: Written | OpenWritten
    ) -> tuple[Tensor, OpenWritten]:
        """The same for open beams alone, logits [R, V] of `level` ≥ 2; `tokens` int [B, K] of all beams.

        An ancestor of an open beam was open itself, so what `step_open` has written for the level before is enough.
        """
        newest = tokens.flatten().index_select(0, beams.beam)[:, None]
        keys, values = [], []
        x = torch.empty(0)
        for number, (block, past) in enumerate(zip(self._layers(), _past(written, beams), strict=True)):
            x, asked, key, value = self._read(level, newest) if number == 0 else self._project(number, x, 1)
            keys.append(torch.cat([past[0], key], dim=1))
            values.append(torch.cat([past[1], value], dim=1))
            x = x + block.attention.mix(asked, keys[-1], values[-1], None)
            if encoded.hidden is not None:
                hidden = encoded.hidden.expand(-1, -1, tokens.shape[1], -1)
                x = block.attend_memory_of_some(x, beams.beam, beams.place, encoded.memory[number], hidden)
            x = block.feed(x)
        logits = self._logits(level, x, 1, encoded, beams.row)[:, 0]
        return logits, OpenWritten(tuple(keys), tuple(values), beams.place)

    def _layers(self) -> list[SearchBlock]:
        return [cast("SearchBlock", block) for block in self.blocks]

    def _make_tables(self) -> None:
        """For every level that reads a token: residual, queries, keys and values of the first layer, each [V, D]."""
        block = self._layers()[0]
        for level in range(1, self.code_length):
            x = self.token[level - 1] + self.level[level]
            normed = block.attention_norm(x)
            tables = (x, block.attention.queries(normed), *block.attention.keys_values(normed))
            for name, table in zip(_TABLES, tables, strict=True):
                keep(self, f"{name}_{level}", table)

    def _read(self, level: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First layer: residual [B · K, D], queries, keys and values [B, K, D] of the newest tokens."""
        if self.tabled:
            x, *parts = (F.embedding(tokens, cast("Tensor", getattr(self, f"{name}_{level}"))) for name in _TABLES)
            return x.reshape(-1, x.shape[-1]), parts[0], parts[1], parts[2]
        x = F.embedding(tokens, self.token[level - 1]) + self.level[level]
        return self._project(0, x.reshape(-1, x.shape[-1]), tokens.shape[1])

    def _project(self, number: int, x: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B · K, D] → x itself, and its queries, keys and values [B, K, D] in one layer"""
        block = self._layers()[number]
        normed = block.attention_norm(x)
        key, value = block.attention.keys_values(normed.reshape(-1, beams, x.shape[-1]))
        return x, block.attention.queries(normed).reshape(-1, beams, x.shape[-1]), key, value

    def _finish(self, number: int, x: Tensor, beams: int, encoded: Encoded) -> Tensor:
        """What follows self-attention in a layer."""
        block = self._layers()[number]
        if encoded.hidden is not None:
            hidden = encoded.hidden.expand(-1, -1, beams, -1)
            x = block.attend_memory(x, beams, encoded.memory[number], hidden)
        return block.feed(x)

    def _logits(self, level: int, x: Tensor, beams: int, encoded: Encoded, row: Tensor | None = None) -> Tensor:
        """x [B · K, D] → [B, K, V]; with `row` int64 [R], of which users they are, x [R, D] → [R, 1, V]"""

        def of_users(values: Tensor) -> Tensor:
            return values if row is None else values.index_select(0, row)

        user, bias = (cast("Tensor", getattr(self, f"{name}_{level}")) for name in ("user_output", "output_bias"))
        normed = self.norm(x)
        if self.gate is None or not self.gated[level]:
            state = F.linear(normed, cast("Tensor", getattr(self, f"state_output_{level}")))
            of_user = of_users(F.linear(encoded.user_state, user, bias))
            return state.reshape(-1, beams, user.shape[0]) + of_user[:, None]
        assert encoded.gate is not None
        inner = self.gate.state(normed).reshape(-1, beams, self.gate.state.out_features) * of_users(encoded.gate)
        state = F.linear(normed, cast("Tensor", self.project)) + self.gate.down(inner.flatten(0, 1))
        return F.linear(state.reshape(-1, beams, state.shape[1]) + of_users(encoded.user_state)[:, None], user, bias)


_TABLES = ("residual", "query", "key", "value")


def _past(written: Written | OpenWritten, beams: Open) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [R, P, D] of the ancestors of open beams, for each decoder layer."""

    def of_beams(cache: Tensor) -> Tensor:
        if isinstance(written, OpenWritten):
            return cache.index_select(0, written.place.index_select(0, beams.parent))
        # What `step` wrote at level 1, [B, 1 + K, D]: the start, and a position for every beam.
        start, first = cache[:, 0].index_select(0, beams.row), cache[:, 1:].flatten(0, 1).index_select(0, beams.parent)
        return torch.stack([start, first], dim=1)

    return [(of_beams(keys), of_beams(values)) for keys, values in zip(written.keys, written.values, strict=True)]


def _descend(lineage: Tensor, parent: Tensor) -> Tensor:
    """A parent's ancestors [B, K', P] and the new beams themselves: [B, K, P + K]; parent int64 [B, K]."""
    beams = parent.shape[1]
    if lineage.shape[1] == 1:  # everybody descends from the start
        inherited = lineage.expand(-1, beams, -1)
    else:
        inherited = lineage.gather(1, parent[..., None].expand(-1, -1, lineage.shape[2]))
    own = torch.where(torch.eye(beams, dtype=torch.bool, device=lineage.device), 0.0, HIDDEN)
    return torch.cat([inherited, own.expand(lineage.shape[0], -1, -1)], dim=2)
