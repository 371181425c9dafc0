"""Integrated embeddings → one unique code per item, by the quantizer that the settings name."""

import logging

import numpy as np
from numpy.typing import NDArray

from models.quantizer import quantize

from .config import TrainingConfig
from .rqvae import quantize_by_autoencoder
from .work_folder import Arrays

_LOG = logging.getLogger(__name__)


def make_codes(integrated: NDArray[np.float32], config: TrainingConfig) -> Arrays:
    """integrated [N, D_I] → tokens int32 [N, L], unique; nearest int32 [N, L], what they were before they were made
    unique; codebooks float32 [L, V, D_I]."""
    sizes = config.model
    if config.quantizer == "rqvae":
        made = quantize_by_autoencoder(integrated, sizes.code_length, sizes.tokens_per_level, config.seed)
    else:
        balanced = config.quantizer == "balanced"
        made = quantize(integrated, sizes.code_length, sizes.tokens_per_level, config.seed, balanced=balanced)
    _LOG.info(
        "codes: %.1f %% of items collided before, %.1f %% were moved; tokens used per level %s of %d",
        100 * made.collision_rate, 100 * made.moved_rate, made.codes.used_tokens(), sizes.tokens_per_level,
    )  # fmt: skip
    return {"tokens": made.codes.tokens, "nearest": made.nearest, "codebooks": made.codebooks}
