"""The generators: networks that read a history and write an item's code, one token a level.

Two of them behind one interface (`encode`, `step`, `teacher_forced`):

`TemporalGenerator`  a causal transformer over items gives one user state per position; a small depth transformer
                     writes the L tokens from that state alone, so one pass trains every position of a history and a
                     beam costs almost nothing. Our choice; started from stage I (`training.generator`).
`EncoderDecoderGenerator`  encoder over the history's code tokens, decoder attending to it: the published line of
                     generative recommendation (TIGER, arXiv 2305.05065; PRORec, arXiv 2502.06269).

Both also give every item a score, user state · item embedding, used for the full-softmax head and for rescoring.
Letters: B batch, T history items, L code length, V tokens a level, K beams, D width, H heads, P predicted positions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig

Cache = tuple[tuple[Tensor, Tensor], ...]
"""Per decoder layer (keys, values), each [R, H, positions, D / H], R rows of the running search."""


class Attention(nn.Module):
    """Multi-head attention with one projection for queries and one for keys and values together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [R, S, D] → keys and values, each [R, H, S, D / H]."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """x [R, Q, D]; mask bool, True = may attend, broadcast to [R, H, Q, S]; returns [R, Q, D]."""
        queries = self._split(self.query(x))
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x))))


class Block(nn.Module):
    """A pre-norm transformer layer; with `cross` it also attends to an encoder's memory."""

    def __init__(self, config: ModelConfig, *, cross: bool = False) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.attention_norm = nn.LayerNorm(config.width)
        self.cross = Attention(config.width, config.heads) if cross else None
        self.cross_norm = nn.LayerNorm(config.width) if cross else None
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, *, last_only: bool = False) -> Tensor:
        """x [R, S, D] → the same, or [R, 1, D], the last position alone, with `last_only`."""
        normed = self.attention_norm(x)
        keys, values = self.attention.keys_values(normed)
        if last_only:
            x, normed = x[:, -1:], normed[:, -1:]
            mask = mask[..., -1:, :] if mask is not None else None
        x = x + self._attend(self.attention, normed, keys, values, mask)
        return self._feed(x)

    def decode(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, memory: "CrossMemory | None"
    ) -> Tensor:
        """One layer of a decoder whose own keys and values [R, H, S, D / H] already include those of x [R, Q, D]."""
        x = x + self._attend(self.attention, self.attention_norm(x), keys, values, mask)
        if memory is not None and self.cross is not None and self.cross_norm is not None:
            rows = memory.keys.shape[0]
            queries = len(x) // max(1, rows) * x.shape[1]  # said, as it could not be guessed where there is no row
            grouped = self.cross_norm(x).reshape(rows, queries, x.shape[-1])
            mixed = self._attend(self.cross, grouped, memory.keys, memory.values, memory.mask)
            x = x + mixed.reshape(x.shape)
        return self._feed(x)

    def _attend(self, layer: Attention, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0
        mixed: Tensor = self.dropout(layer(x, keys, values, mask, dropout))
        return mixed

    def _feed(self, x: Tensor) -> Tensor:
        fed: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return fed


@dataclass(frozen=True)
class CrossMemory:
    """What one decoder layer attends to; a beam is only one more query, so beams share it.

    keys, values  [B, H, M, D / H]
    mask          bool [B, 1, 1, M]
    """

    keys: Tensor
    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Context:
    """A history, encoded.

    user_state  [B, D] (or [P, D] in training)
    memory      one entry per decoder layer, empty for the temporal generator
    """

    user_state: Tensor
    memory: tuple[CrossMemory, ...] = ()

    def repeat(self, times: int) -> "Context":
        """A context of one row as `times` equal rows."""
        memory = tuple(
            CrossMemory(*(part.expand(times, *part.shape[1:]) for part in (layer.keys, layer.values, layer.mask)))
            for layer in self.memory
        )
        return Context(self.user_state.expand(times, -1), memory)


class TemporalEncoder(nn.Module):
    """Causal transformer over item embeddings, as in SASRec (arXiv 1808.09781), positions counted from the newest."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.history_length = config.history_length
        self.position = nn.Parameter(torch.randn(config.history_length, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, real: Tensor, *, last_only: bool = False) -> Tensor:
        """x [B, T, D] padded on the left, real bool [B, T]; returns states [B, T, D], or [B, 1, D]."""
        length = x.shape[1]
        x = self.dropout(x + self.position[self.history_length - length :])
        index = torch.arange(length, device=x.device)
        causal = index[None, :] <= index[:, None]
        # A padded position attends to itself, or its softmax would be over nothing.
        itself = index[None, :] == index[:, None]
        mask = (causal & real[:, None, :] | itself)[:, None]
        for number, block in enumerate(self.blocks):
            x = block(x, mask, last_only=last_only and number == len(self.blocks) - 1)
        normed: Tensor = self.norm(x)
        return normed


class CodeDecoder(nn.Module):
    """Decoder over one code: position 0 reads a start vector, position l the token of level l - 1.

    Position L is a summary token: no token follows it, its state feeds distillation (`training.generator`).
    """

    def __init__(self, config: ModelConfig, *, cross: bool) -> None:
        super().__init__()
        shape = (config.code_length, config.tokens_per_level, config.width)
        if config.decoder_dropout is not None:
            config = config.model_copy(update={"dropout": config.decoder_dropout})
        self.token = nn.Parameter(torch.randn(shape) * 0.02)
        self.level = nn.Parameter(torch.randn(config.code_length + 1, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config, cross=cross) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def step(self, level: int, x: Tensor, cache: Cache, memory: tuple[CrossMemory, ...]) -> tuple[Tensor, Cache]:
        """x [R, 1, D], the start vector or a token's embedding → (state [R, 1, D], cache one position longer)."""
        x = x + self.level[level]
        grown: list[tuple[Tensor, Tensor]] = []
        for number, block in enumerate(self.blocks):
            keys, values = block.attention.keys_values(block.attention_norm(x))  # type: ignore[operator, union-attr]
            if cache:
                keys = torch.cat([cache[number][0], keys], dim=2)
                values = torch.cat([cache[number][1], values], dim=2)
            grown.append((keys, values))
            x = block.decode(x, keys, values, None, memory[number] if memory else None)  # type: ignore[operator]
        return self.norm(x), tuple(grown)

    def forward(self, start: Tensor, codes: Tensor, memory: tuple[CrossMemory, ...]) -> Tensor:
        """start [P, D], codes int [P, L] → states [P, L + 1, D] of all positions at once."""
        x = self.dropout(torch.cat([start[:, None], self.embed(codes)], dim=1) + self.level)
        length = x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        for number, block in enumerate(self.blocks):
            keys, values = block.attention.keys_values(block.attention_norm(x))  # type: ignore[operator, union-attr]
            x = block.decode(x, keys, values, causal, memory[number] if memory else None)  # type: ignore[operator]
        normed: Tensor = self.norm(x)
        return normed

    def embed(self, codes: Tensor) -> Tensor:
        """codes int [P, L] → [P, L, D]."""
        return torch.stack([F.embedding(codes[:, level], self.token[level]) for level in range(codes.shape[1])], dim=1)


class UserGate(nn.Module):
    """A bilinear gated unit (Shazeer 2020, arXiv 2002.05202) whose sides read the decoder's state and the user state.

    Below a prefix a token stands for few items, and what they are to a user is another linear function of the user
    state after every prefix. A sum of both states cannot say that, and a feed-forward layer over it learns it badly.
    """

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.state = nn.Linear(width, inner)
        self.user = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, user_state: Tensor) -> Tensor:
        """states [B, K, D], user_state [B, D] → [B, K, D]."""
        mixed: Tensor = self.down(self.dropout(self.state(states) * self.user(user_state)[:, None]))
        return mixed


class Generator(nn.Module, ABC):
    """What both generators share: output vectors of tokens, and scores of levels and items."""

    def __init__(self, config: ModelConfig, *, cross: bool) -> None:
        super().__init__()
        self.config = config
        self.decoder = CodeDecoder(config, cross=cross)
        shape = (config.code_length, config.tokens_per_level, config.width)
        self.token_output = nn.Parameter(torch.randn(shape) * 0.02)
        self.project = nn.Linear(config.width, config.width)
        dropout = config.dropout if config.decoder_dropout is None else config.decoder_dropout
        self.gate = UserGate(config.width, config.gate_width, dropout) if config.gate_width else None

    @abstractmethod
    def encode(self, history: Tensor, tables: dict[str, Tensor]) -> Context:
        """history int [B, T], padded with -1 on the left; `tables` as in `models.graph`."""

    @abstractmethod
    def start(self, context: Context) -> Tensor:
        """The decoder's first input, [B, D]."""

    def step(self, level: int, tokens: Tensor | None, context: Context, cache: Cache) -> tuple[Tensor, Cache]:
        """Logits [B, K, V] of `level` for beams whose newest tokens are `tokens` int [B, K]; None at level 0."""
        if tokens is None:
            x = self.start(context)[:, None]
        else:
            x = F.embedding(tokens.reshape(-1), self.decoder.token[level - 1])[:, None]
        state, cache = self.decoder.step(level, x, cache, context.memory)
        beams = state.reshape(context.user_state.shape[0], -1, self.config.width)
        return self.logits(level, beams, context.user_state), cache

    def teacher_forced(self, context: Context, codes: Tensor) -> tuple[list[Tensor], Tensor]:
        """codes int [P, L] → (logits [P, V] for every level, summary state [P, D])."""
        states = self.decoder(self.start(context), codes, context.memory)
        levels = range(self.config.code_length)
        logits = [self.logits(level, states[:, level : level + 1], context.user_state)[:, 0] for level in levels]
        return logits, states[:, -1]

    def logits(self, level: int, states: Tensor, user_state: Tensor) -> Tensor:
        """The decoder's state corrects the user state, so with zero correction and token vectors that add up to item
        embeddings the levels' logits add up to the item score. states [B, K, D], user_state [B, D] → [B, K, V]."""
        corrected = self.project(states) + user_state[:, None]
        if self.gate is not None and self.gated(level):
            corrected = corrected + self.gate(states, user_state)
        return corrected @ self.token_output[level].T

    def gated(self, level: int) -> bool:
        """Whether a gate corrects this level's scores."""
        return self.gate is not None and (self.config.gate_levels is None or level < self.config.gate_levels)

    def without_correction(self) -> None:
        """Makes the user state alone decide, as before the decoder has learned anything."""
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        if self.gate is not None:
            nn.init.zeros_(self.gate.down.weight)


class TemporalGenerator(Generator):
    """One position an item, and a depth transformer that sees the user state only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, cross=False)
        self.temporal = TemporalEncoder(config)

    def states(self, x: Tensor, real: Tensor) -> Tensor:
        """User state after every position: x [B, T, D], real bool [B, T] → [B, T, D]."""
        states: Tensor = self.temporal(x, real)
        return states

    def encode(self, history: Tensor, tables: dict[str, Tensor]) -> Context:
        real = history >= 0
        x = F.embedding(history.clamp(min=0), tables["item_input"])
        return Context(self.temporal(x, real, last_only=True)[:, 0])

    def start(self, context: Context) -> Tensor:
        return context.user_state


class EncoderDecoderGenerator(Generator):
    """Encoder over T · L code tokens, decoder with cross-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, cross=True)
        shape = (config.code_length, config.tokens_per_level, config.width)
        self.token_input = nn.Parameter(torch.randn(shape) * 0.02)
        self.item_position = nn.Parameter(torch.randn(config.history_length, 1, config.width) * 0.02)
        self.begin = nn.Parameter(torch.randn(config.width) * 0.02)
        self.encoder = nn.ModuleList(Block(config) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, history: Tensor, tables: dict[str, Tensor]) -> Context:
        real = history >= 0
        codes = F.embedding(history.clamp(min=0), tables["item_code"])  # [B, T, L]
        levels = range(self.config.code_length)
        x = torch.stack([F.embedding(codes[..., level], self.token_input[level]) for level in levels], dim=2)
        x = x + self.item_position[self.config.history_length - history.shape[1] :]
        x = self.dropout(x.flatten(1, 2))
        seen = real[:, :, None].expand(-1, -1, self.config.code_length).flatten(1)
        # An empty history attends to its padding rather than to nothing.
        mask = (seen | ~seen.any(dim=1, keepdim=True))[:, None, None]
        for block in self.encoder:
            x = block(x, mask)
        x = self.encoder_norm(x)
        return Context(x[:, -1], tuple(self._memory(block, x, mask) for block in self.decoder.blocks))

    def start(self, context: Context) -> Tensor:
        return self.begin.expand(context.user_state.shape[0], -1)

    @staticmethod
    def _memory(block: nn.Module, x: Tensor, mask: Tensor) -> CrossMemory:
        keys, values = block.cross.keys_values(x)  # type: ignore[union-attr, operator]
        return CrossMemory(keys, values, mask)


def build_generator(config: ModelConfig) -> Generator:
    """The generator that `config.generator` names, freshly initialised."""
    if config.generator == "temporal":
        return TemporalGenerator(config)
    return EncoderDecoderGenerator(config)
