from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.artifact import ITEM_ENCODER, Artifact
from models.errors import ItemEncodingError, NoItemEncoderError
from models.item_encoder import EncodedItems, ItemEncoder, ItemGraph
from tests.service.plain_artifact import plain_artifact
from tests.tiny import SEMANTIC_WIDTH, tiny_package
from training.errors import ExportError
from training.item_encoder import ItemEncoderNetwork, export_item_encoder


@pytest.fixture(scope="module")
def artifact(open_to_new_items: Artifact) -> Artifact:
    return open_to_new_items


@pytest.fixture(scope="module")
def encoder(artifact: Artifact) -> ItemEncoder:
    return ItemEncoder.open(artifact)


def embeddings(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(1.0, 2.0, size=(count, SEMANTIC_WIDTH)).astype(np.float32)


def owned(artifact: Artifact) -> Callable[[NDArray[np.int32]], NDArray[np.bool_]]:
    rows = {tuple(row) for row in artifact.codes.tokens.tolist()}
    return lambda asked: np.array([tuple(row) in rows for row in asked.tolist()], dtype=bool)


def test_the_graph_gives_what_the_network_gives(encoder: ItemEncoder) -> None:
    part = tiny_package().item_encoder
    assert part is not None
    semantic = embeddings(50)
    found, wanted = encoder.encode(semantic), part.network.encode(semantic)
    for name in ("integrated", "item_output", "item_input"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-4)


def test_a_row_does_not_depend_on_its_neighbours(encoder: ItemEncoder) -> None:
    semantic = embeddings(5000)  # more than one run takes
    whole = encoder.encode(semantic)
    for row in (0, 4095, 4096, 4999):
        alone = encoder.encode(semantic[row : row + 1])
        np.testing.assert_allclose(alone.item_output[0], whole.item_output[row], atol=1e-5)


def test_what_an_item_adds_to_a_history_holds_its_codes_part(artifact: Artifact, encoder: ItemEncoder) -> None:
    encoded = encoder.encode(embeddings(2))
    codes = np.array([[0, 1, 2], [7, 0, 3]], dtype=np.int32)
    tokens = artifact.array("token_input")
    wanted = [
        encoded.item_input[row] + sum(tokens[level, code[level]] for level in range(3))
        for row, code in enumerate(codes)
    ]
    np.testing.assert_allclose(encoder.item_input(encoded, codes), wanted, atol=1e-5)


def test_proposed_codes_are_nobodys(artifact: Artifact, encoder: ItemEncoder) -> None:
    codes = encoder.propose(encoder.encode(embeddings(200)).integrated, owned(artifact))
    assert codes.shape == (200, 3)
    assert len(np.unique(np.concatenate([artifact.codes.tokens, codes]), axis=0)) == 260


def test_like_items_get_like_codes(artifact: Artifact, encoder: ItemEncoder) -> None:
    pair = np.repeat(embeddings(1), 2, axis=0)
    first, second = encoder.propose(encoder.encode(pair).integrated, owned(artifact))
    assert first.tolist()[:2] == second.tolist()[:2]


def test_the_encoder_decoder_has_no_vector_for_histories(tmp_path: Path) -> None:
    part = tiny_package(generator="encoder_decoder").item_encoder
    assert part is not None
    export_item_encoder(part.network, part.semantic, tmp_path)
    encoder = ItemEncoder(ItemGraph(tmp_path / ITEM_ENCODER), SEMANTIC_WIDTH, part.codebooks, part.token_input)
    encoded = encoder.encode(embeddings(3))
    assert encoded.item_output.shape == (3, 16)
    assert encoder.item_input(encoded, np.zeros((3, 3), dtype=np.int32)).shape == (3, 0)


@pytest.mark.parametrize(
    ("semantic", "sentence"),
    [
        (np.zeros((2, 3), dtype=np.float32), r"shape \[2, 3\], this model takes \[items, 8\]"),
        (np.zeros((0, 8), dtype=np.float32), r"shape \[0, 8\]"),
        (np.full((1, 8), np.inf, dtype=np.float32), "not finite"),
    ],
    ids=["width", "none", "infinite"],
)
def test_embeddings_that_do_not_fit_are_refused(
    encoder: ItemEncoder, semantic: NDArray[np.float32], sentence: str
) -> None:
    with pytest.raises(ItemEncodingError, match=sentence):
        encoder.encode(semantic)


def test_the_manifest_says_what_can_be_added(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert (manifest.item_encoder, manifest.semantic_width) == (True, SEMANTIC_WIDTH)
    assert {ITEM_ENCODER, "codebooks.npy", "token_input.npy"} <= set(manifest.files)


def test_an_artifact_without_item_encoder_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoItemEncoderError, match="the model v1 has no item encoder"):
        ItemEncoder.open(plain_artifact(tmp_path))


def test_an_encoder_that_differs_from_torch_is_refused(tmp_path: Path) -> None:
    class Noisy(ItemEncoderNetwork):
        def encode(self, semantic: NDArray[np.float32]) -> EncodedItems:
            return super().encode(semantic + np.float32(0.01))

    part = tiny_package().item_encoder
    assert part is not None
    part.network.__class__ = Noisy
    with pytest.raises(ExportError, match="differs from torch"):
        export_item_encoder(part.network, part.semantic, tmp_path)
