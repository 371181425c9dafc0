"""The layers of a generator as a search runs them: no dropout, constants worked out once, few and large operations.

The same functions as in `models.network`, arranged for ONNX Runtime. Rows stay flat, [R, D], so that a linear layer is
one product with its bias; only attention sees them as [B, positions, D], in one operator that splits heads itself. The
bias of keys is left out, because it adds the same to every score of a softmax; that of values goes through the softmax
unchanged and is added to the output's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import Attention, Block

HIDDEN = -1e9
"""Added to the score of a position that must not be attended to; its softmax is exactly 0."""


class SearchAttention(nn.Module):
    """`Attention` with its projections apart, so that nothing has to be cut out of a wider result."""

    query: Tensor
    query_bias: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    out_bias: Tensor

    def __init__(self, layer: Attention) -> None:
        super().__init__()
        self.heads = layer.heads
        key, value = layer.key_value.weight.chunk(2)
        value_bias = layer.key_value.bias.chunk(2)[1]
        keep(self, "query", layer.query.weight)
        keep(self, "query_bias", layer.query.bias)
        keep(self, "key", key.T)
        keep(self, "value", value.T)
        keep(self, "out", layer.out.weight)
        keep(self, "out_bias", layer.out.bias + layer.out.weight @ value_bias)

    def queries(self, x: Tensor) -> Tensor:
        """x [R, D] → [R, D]"""
        return F.linear(x, self.query, self.query_bias)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., D] → keys and values [..., D]"""
        return x @ self.key, x @ self.value

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """queries [B, Q, D], keys and values [B, S, D], bias float [B, 1, Q, S] added to the scores → [B · Q, D]"""
        return self.project(attend(queries, keys, values, bias, self.heads).reshape(-1, queries.shape[-1]))

    def project(self, mixed: Tensor) -> Tensor:
        """Values mixed by all heads [R, D] → [R, D]"""
        return F.linear(mixed, self.out, self.out_bias)


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """Softmax attention of [B, Q, D] over [B, S, D], `bias` [B, 1, Q, S] added to the scores: [B, Q, D]."""
    if torch.compiler.is_exporting():
        return torch.onnx.ops.attention(queries, keys, values, bias, q_num_heads=heads, kv_num_heads=heads)[0]
    split = [part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (queries, keys, values)]
    mixed = F.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=bias)
    return mixed.transpose(1, 2).flatten(2)


class SearchBlock(nn.Module):
    """`Block` on flat rows."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.attention = SearchAttention(block.attention)
        self.attention_norm = block.attention_norm
        self.cross = SearchAttention(block.cross) if block.cross is not None else None
        self.cross_norm = block.cross_norm
        self.up, self.down = block.feed_forward.up, block.feed_forward.down
        self.feed_forward_norm = block.feed_forward_norm

    def encode(self, x: Tensor, length: int, bias: Tensor, *, last_only: bool = False) -> Tensor:
        """x [B · S, D] with S = `length`, bias [B, 1, S, S] → the same, or [B, D], the last positions."""
        normed = self.attention_norm(x)
        grouped = normed.reshape(-1, length, x.shape[-1])
        keys, values = self.attention.keys_values(grouped)
        queries = 1 if last_only else length
        if last_only:
            x, normed = x.reshape(grouped.shape)[:, -1], grouped[:, -1]
            bias = bias[:, :, -1:]
        asked = self.attention.queries(normed).reshape(-1, queries, x.shape[-1])
        return self.feed(x + self.attention.mix(asked, keys, values, bias))

    def attend_memory(self, x: Tensor, beams: int, memory: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """x [B · K, D], keys and values of the memory [B, M, D], bias [B, 1, K, M] → x after cross-attention"""
        assert self.cross is not None
        assert self.cross_norm is not None
        asked = self.cross.queries(self.cross_norm(x)).reshape(-1, beams, x.shape[-1])
        return x + self.cross.mix(asked, *memory, bias)

    def attend_memory_of_some(
        self, x: Tensor, beam: Tensor, place: Tensor, memory: tuple[Tensor, Tensor], bias: Tensor
    ) -> Tensor:
        """The same for R of all beams, x [R, D]: `beam` int64 [R], which they are; `place` int64 [B · K], where one is.

        All beams ask, so that those of a row stay one product with its memory, and R get their answer.
        """
        assert self.cross is not None
        assert self.cross_norm is not None
        asked = self.cross.queries(self.cross_norm(x)).index_select(0, place)
        asked = asked.reshape(memory[0].shape[0], -1, x.shape[-1])
        mixed = attend(asked, *memory, bias, self.cross.heads).flatten(0, 1).index_select(0, beam)
        return x + self.cross.project(mixed)

    def feed(self, x: Tensor) -> Tensor:
        """x [R, D] → [R, D]"""
        fed: Tensor = x + self.down(F.gelu(self.up(self.feed_forward_norm(x))))
        return fed


def keep(module: nn.Module, name: str, constant: Tensor) -> None:
    """Gives `module` a constant of its own, contiguous and without a gradient."""
    module.register_buffer(name, constant.detach().clone(memory_format=torch.contiguous_format), persistent=False)
