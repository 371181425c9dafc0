"""Text of a new item → its embedding, by the encoder a model was trained with; ONNX and `tokenizers`, no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .artifact import TEXT_ENCODER, TOKENIZER, Artifact
from .errors import NoTextEncoderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OUTPUT = "semantic"
_TEXTS_PER_RUN = 32


class TextEncoder:
    """The sentence encoder of one artifact: tokens, transformer, pooling, all as in training."""

    def __init__(self, graph: Path, tokenizer: Path, threads: int = 1) -> None:
        """Opens both files; raises NoTextEncoderError where the package `tokenizers` is missing."""
        self.tokenizer = _read_tokenizer(tokenizer)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]

    @classmethod
    def open(cls, artifact: Artifact, threads: int = 1) -> "TextEncoder":
        """Raises NoTextEncoderError where the artifact has none or `tokenizers` is not installed."""
        manifest = artifact.manifest
        if manifest.text_encoder is None:
            raise NoTextEncoderError(
                f"the model {manifest.model_version} was exported without its text encoder; "
                f"give embeddings of {manifest.semantic_width} numbers instead of text"
            )
        return cls(artifact.folder / TEXT_ENCODER, artifact.folder / TOKENIZER, threads)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One embedding a text, float32 [M, D_S], as the item encoder takes them; M at least 1."""
        # Texts of like length share a batch, so that few positions are padding.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        parts = [
            self._run([texts[place].strip() for place in order[begin : begin + _TEXTS_PER_RUN]])
            for begin in range(0, len(order), _TEXTS_PER_RUN)
        ]
        vectors = np.concatenate(parts)
        found = np.empty_like(vectors)
        found[order] = vectors
        return found

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        encodings = self.tokenizer.encode_batch(texts)
        columns = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        inputs = {name: np.array(columns[name], dtype=np.int64) for name in self.inputs}
        return np.asarray(self.session.run([OUTPUT], inputs)[0], dtype=np.float32)


def _read_tokenizer(path: Path) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise NoTextEncoderError(
            "text of new items cannot be encoded because the package tokenizers is not installed; "
            "install prorec-serve[text], or give embeddings"
        ) from None
    return Tokenizer.from_file(str(path))
