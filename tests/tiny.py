"""A tiny real artifact: a small random network, exported and proved like a trained one, in a few seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.artifact import Artifact
from models.codes import CodeTable
from models.config import ModelConfig
from models.network import build_generator
from training.package import Package, write_artifact


def random_codes(items: int, code_length: int, tokens_per_level: int, seed: int) -> CodeTable:
    """Unique codes drawn evenly."""
    rng = np.random.default_rng(seed)
    flat = rng.choice(tokens_per_level**code_length, size=items, replace=False)
    powers = tokens_per_level ** np.arange(code_length - 1, -1, -1)
    return CodeTable((flat[:, None] // powers % tokens_per_level).astype(np.int32), tokens_per_level)


def tiny_package(
    *,
    items: int = 60,
    seed: int = 0,
    code_length: int = 3,
    tokens_per_level: int = 8,
    width: int = 16,
    beam_widths: Sequence[int] = (4, 8),
    generator: Literal["temporal", "encoder_decoder"] = "temporal",
    rescore_weight: float = 0.5,
) -> Package:
    """What `write_artifact` is given: items are named item-0 … and have a title and a category."""
    torch.manual_seed(seed)
    config = ModelConfig(
        generator=generator,
        code_length=code_length,
        tokens_per_level=tokens_per_level,
        width=width,
        heads=2,
        feed_forward=2 * width,
        encoder_layers=1,
        decoder_layers=1,
        history_length=6,
        dropout=0.0,
    )
    network = build_generator(config)
    with torch.no_grad():  # larger weights than at the start of training, so that scores lie apart
        for parameter in network.parameters():
            parameter.mul_(3.0)
    rng = np.random.default_rng(seed)
    return Package(
        generator=network.eval(),
        codes=random_codes(items, code_length, tokens_per_level, seed),
        item_ids=[f"item-{number}" for number in range(items)],
        metadata=[
            {"item_id": f"item-{number}", "title": f"Title {number}", "category": "even" if number % 2 == 0 else "odd"}
            for number in range(items)
        ],
        item_input=rng.normal(size=(items, width)).astype(np.float32),
        item_output=rng.normal(size=(items, width)).astype(np.float32),
        popularity=rng.permutation(items).astype(np.int32),
        histories=_histories(rng, items),
        beam_widths=tuple(beam_widths),
        default_beam_width=beam_widths[0],
        history_buckets=(3, 6),
        rescore_weight=rescore_weight,
        dataset="tiny",
        training_fingerprint="0" * 64,
    )


def _histories(rng: np.random.Generator, items: int) -> list[NDArray[np.int32]]:
    longest = min(items, 9)
    return [rng.choice(items, size=rng.integers(1, longest + 1), replace=False).astype(np.int32) for _ in range(12)]


def build_tiny_artifact(
    folder: Path,
    *,
    items: int = 60,
    seed: int = 0,
    version: str = "tiny-1",
    code_length: int = 3,
    tokens_per_level: int = 8,
    width: int = 16,
    beam_widths: Sequence[int] = (4, 8),
    generator: Literal["temporal", "encoder_decoder"] = "temporal",
) -> Artifact:
    """Writes `folder`/`version` and returns it; another `seed` gives other codes and other answers."""
    package = tiny_package(
        items=items,
        seed=seed,
        code_length=code_length,
        tokens_per_level=tokens_per_level,
        width=width,
        beam_widths=beam_widths,
        generator=generator,
    )
    return write_artifact(folder / version, package)
