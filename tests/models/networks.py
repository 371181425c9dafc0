"""Networks with random weights for tests of how a search runs them."""

from typing import Literal

import torch

from models.config import ModelConfig
from models.network import Generator, build_generator

LEVELS, TOKENS, WIDTH = 4, 6, 16


def network(
    kind: Literal["temporal", "encoder_decoder"], gate_width: int | None = None, gate_levels: int | None = None
) -> Generator:
    """Two layers of everything, weights large enough that every part of it matters."""
    torch.manual_seed(1)
    config = ModelConfig(
        generator=kind, code_length=LEVELS, tokens_per_level=TOKENS, width=WIDTH, heads=2, feed_forward=32,
        encoder_layers=2, decoder_layers=2, history_length=7, dropout=0.0, gate_width=gate_width,
        gate_levels=gate_levels,
    )  # fmt: skip
    generator = build_generator(config)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return generator.eval()
