"""From the embedding of an item's text to everything an item needs to be recommended: for items added after training.

The network is one small ONNX graph, written beside the search graphs when a model is exported. The code is found here:
the nearest one, level by level, that no other item has.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .artifact import ITEM_ENCODER, Artifact
from .errors import ItemEncodingError, NoItemEncoderError
from .free_codes import Taken, free_codes

OUTPUTS = ("integrated", "item_output", "item_input")
_ROWS_PER_RUN = 4096


@dataclass(frozen=True)
class EncodedItems:
    """M items as the model sees them, float32.

    integrated   [M, D_I], what their codes are made from
    item_output  [M, D], what a user state is multiplied with to score them
    item_input   [M, D], what they add to a history, without the part of their codes; [M, 0] for the encoder–decoder,
                 which reads codes alone
    """

    integrated: NDArray[np.float32]
    item_output: NDArray[np.float32]
    item_input: NDArray[np.float32]

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which items have nothing but numbers, bool [M]; embeddings may be too large for float32 on the way."""
        parts = (self.integrated, self.item_output, self.item_input)
        return np.asarray(np.logical_and.reduce([np.isfinite(part).all(axis=1) for part in parts]))


class ItemGraph:
    """The exported network alone."""

    def __init__(self, path: Path) -> None:
        self.session = _open(path)

    def __call__(self, semantic: NDArray[np.float32]) -> EncodedItems:
        """Raw text embeddings float32 [M, D_S], M at least 1."""
        parts = [
            self.session.run(list(OUTPUTS), {"semantic": semantic[begin : begin + _ROWS_PER_RUN]})
            for begin in range(0, len(semantic), _ROWS_PER_RUN)
        ]
        return EncodedItems(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class ItemEncoder:
    """The item encoder of one artifact."""

    def __init__(
        self,
        graph: ItemGraph,
        semantic_width: int,
        codebooks: NDArray[np.float32],
        token_input: NDArray[np.float32] | None,
    ) -> None:
        self.graph = graph
        self.semantic_width = semantic_width
        self.codebooks = codebooks
        self.token_input = token_input

    @classmethod
    def open(cls, artifact: Artifact) -> "ItemEncoder":
        """Raises NoItemEncoderError (an ArtifactError) where the artifact has none."""
        manifest = artifact.manifest
        if not manifest.item_encoder:
            raise NoItemEncoderError(
                f"the model {manifest.model_version} has no item encoder, so no item can be added to it"
            )
        token_input = artifact.array("token_input") if manifest.config.generator == "temporal" else None
        graph = ItemGraph(artifact.folder / ITEM_ENCODER)
        return cls(graph, manifest.semantic_width, artifact.array("codebooks"), token_input)

    def encode(self, semantic: NDArray[np.float32]) -> EncodedItems:
        """Text embeddings float32 [M, D_S] as the text encoder gives them.

        Raises ItemEncodingError for another width or a value that is not finite.
        """
        if semantic.ndim != 2 or semantic.shape[1] != self.semantic_width or not len(semantic):
            raise ItemEncodingError(
                f"embeddings have shape {list(semantic.shape)}, this model takes [items, {self.semantic_width}]"
            )
        if not np.isfinite(semantic).all():
            raise ItemEncodingError("an embedding holds a value that is not finite")
        return self.graph(np.ascontiguousarray(semantic, dtype=np.float32))

    def item_input(self, encoded: EncodedItems, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """What items add to a history, float32 [M, D], with the part of their codes int32 [M, L]."""
        if self.token_input is None:
            return encoded.item_input
        parts = self.token_input[np.arange(codes.shape[1]), codes]
        return np.asarray(encoded.item_input + parts.sum(axis=1), dtype=np.float32)

    def propose(self, integrated: NDArray[np.float32], taken: Taken) -> NDArray[np.int32]:
        """The free code nearest to each of M items float32 [M, D_I] (`free_codes`); int32 [M, L], all different.

        Items for which no code is free any more have -1.
        """
        return free_codes(integrated, self.codebooks, taken)
