"""A sentence-transformers model → one ONNX graph and a tokenizer file, proved against it on real texts.

Its modules are traced as they are (transformer, pooling, normalisation), so whatever they do is in the graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from models.artifact import TEXT_ENCODER, TOKENIZER
from models.text_encoder import OUTPUT, TextEncoder

from .errors import ExportError
from .export import quiet_export

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LEAST_COSINE = 0.9999
_WITHOUT = "--set export_text_encoder=false trains without it, and new items are then added by their embeddings"
_STORED_IN_HALF = 1 << 16  # values of a weight from which on it is stored in 16 bits


@dataclass(frozen=True)
class TextEncoderFiles:
    """An exported text encoder: the folder with its two files, and the name that identifies it."""

    folder: Path
    name: str


class _Sentence(nn.Module):
    """A sentence encoder as a function of tensors."""

    def __init__(self, encoder: "SentenceTransformer", names: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """int64 [M, tokens] each → [M, D_S]."""
        vectors: Tensor = self.encoder(dict(zip(self.names, tensors, strict=True)))["sentence_embedding"]
        return vectors


def export_text_encoder(
    encoder: "SentenceTransformer", name: str, texts: Sequence[str], folder: Path
) -> TextEncoderFiles:
    """Writes `text_encoder.onnx` and `tokenizer.json` into `folder`.

    Raises ExportError when the graph does not give what the encoder gives for each of `texts`.
    """
    _write_tokenizer(encoder, folder / TOKENIZER)
    names = [n for n in _INPUTS if n in encoder.tokenizer.model_input_names]
    samples = tuple(torch.ones(3, 5, dtype=torch.int64) for _ in names)  # one tensor given twice would be one input
    dynamic = tuple(dict.fromkeys(range(2), torch.export.Dim.DYNAMIC) for _ in names)
    try:
        graph = quiet_export(_Sentence(encoder.eval(), names), samples, {"tensors": dynamic}, names, [OUTPUT])
    except Exception as error:  # the exporter raises whatever the traced modules raise
        raise ExportError(f"the text encoder {name} cannot be exported ({type(error).__name__}); {_WITHOUT}") from error
    onnx.save_model(_stored_in_half(graph), folder / TEXT_ENCODER)
    _prove(encoder, TextEncoder(folder / TEXT_ENCODER, folder / TOKENIZER), name, texts)
    return TextEncoderFiles(folder, f"{Path(name).name}-{_digest(encoder, folder / TOKENIZER)[:12]}")


def _write_tokenizer(encoder: "SentenceTransformer", path: Path) -> None:
    """The encoder's own fast tokenizer, with its truncation and padding, as one file."""
    from tokenizers import Tokenizer

    wrapped = encoder.tokenizer
    if not hasattr(wrapped, "backend_tokenizer"):
        raise ExportError(f"the text encoder has no fast tokenizer; {_WITHOUT}")
    tokenizer = Tokenizer.from_str(wrapped.backend_tokenizer.to_str())
    tokenizer.enable_truncation(encoder.max_seq_length or wrapped.model_max_length, direction=wrapped.truncation_side)
    tokenizer.enable_padding(
        direction=wrapped.padding_side,
        pad_id=wrapped.pad_token_id,
        pad_type_id=wrapped.pad_token_type_id,
        pad_token=wrapped.pad_token,
    )
    tokenizer.save(str(path))


def _stored_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Large weights in 16 bits, each followed by a cast that the runtime folds when it loads: half the bytes in a file
    and in Redis, the same arithmetic. The proof is made with what is stored."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _STORED_IN_HALF:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _prove(encoder: "SentenceTransformer", exported: TextEncoder, name: str, texts: Sequence[str]) -> None:
    """Each text's two embeddings must point the same way, a text beyond the longest length included."""
    checked = [*texts, " ".join([*texts] * (1 + 4096 // sum(len(text) + 1 for text in texts)))]
    wanted = np.asarray(encoder.encode(checked, show_progress_bar=False), dtype=np.float64)
    found = exported.encode(checked).astype(np.float64)
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (wanted * found).sum(axis=1) / np.maximum(norms, 1e-12)
    if not cosine.min() > _LEAST_COSINE:
        worst = checked[int(cosine.argmin())][:80]
        raise ExportError(
            f"the exported text encoder {name} differs on {worst!r} (cosine {cosine.min():.5f}); {_WITHOUT}"
        )


def _digest(encoder: "SentenceTransformer", tokenizer: Path) -> str:
    """SHA-256 over weights and tokenizer, so that equal encoders have one name whichever program exported them."""
    digest = sha256(tokenizer.read_bytes())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
