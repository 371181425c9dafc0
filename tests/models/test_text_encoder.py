"""A random sentence encoder, exported the way a real one is, against the sentence-transformers model it came from."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from models.artifact import TEXT_ENCODER, TOKENIZER, Artifact
from models.errors import NoTextEncoderError
from models.text_encoder import TextEncoder
from tests.service.plain_artifact import edit_manifest, plain_artifact
from tests.tiny import SEMANTIC_WIDTH, build_tiny_sentence_encoder, tiny_text_encoder
from training.errors import ExportError
from training.text import load_encoder
from training.text_export import TextEncoderFiles, export_text_encoder

pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = ["red nail polish", "", "  GREEN tent \n", "tent " * 50, "ünïcode 漢字 🙂", "a", "red tent 2 0 2 6"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> TextEncoderFiles:
    return tiny_text_encoder(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def folder(exported: TextEncoderFiles) -> Path:
    """Holds the exported files and, in `sentence`, the model they came from."""
    return exported.folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder(folder / TEXT_ENCODER, folder / TOKENIZER)


@pytest.fixture(scope="module")
def original(folder: Path) -> SentenceTransformer:
    return load_encoder(str(folder / "sentence"))


def test_it_gives_what_sentence_transformers_gives(encoder: TextEncoder, original: SentenceTransformer) -> None:
    np.testing.assert_allclose(encoder.encode(TEXTS), original.encode(TEXTS), atol=1e-3)


def test_a_long_text_is_cut_at_the_same_place(encoder: TextEncoder, original: SentenceTransformer) -> None:
    texts = [" ".join(["red"] * count) for count in range(8, 14)]  # 12 tokens at most, two of them special
    found = encoder.encode(texts)
    np.testing.assert_allclose(found, original.encode(texts), atol=1e-3)
    np.testing.assert_allclose(found[2:], np.repeat(found[2:3], 4, axis=0), atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_a_text_does_not_depend_on_its_neighbours(encoder: TextEncoder) -> None:
    together = encoder.encode(TEXTS * 10)
    for place, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder.encode([text])[0], together[place + 35], atol=1e-5)


def test_an_artifact_carries_it(open_to_new_items: Artifact, encoder: TextEncoder) -> None:
    assert open_to_new_items.manifest.text_encoder is not None
    assert open_to_new_items.manifest.text_encoder.startswith("tiny-")
    found = TextEncoder.open(open_to_new_items).encode(TEXTS)
    assert found.shape == (len(TEXTS), SEMANTIC_WIDTH)
    np.testing.assert_allclose(found, encoder.encode(TEXTS), atol=1e-6)


def test_an_artifact_without_it_asks_for_embeddings(tmp_path: Path) -> None:
    edit_manifest(plain_artifact(tmp_path), semantic_width=8)
    with pytest.raises(NoTextEncoderError, match="give embeddings of 8 numbers"):
        TextEncoder.open(Artifact.open(tmp_path / "v1"))


def test_a_missing_tokenizers_package_is_named(folder: Path) -> None:
    code = f"""
import sys
sys.modules["tokenizers"] = None
from pathlib import Path
from models.errors import NoTextEncoderError
from models.text_encoder import TextEncoder
try:
    TextEncoder(Path({str(folder / TEXT_ENCODER)!r}), Path({str(folder / TOKENIZER)!r}))
except NoTextEncoderError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install prorec-serve[text]" in ran.stdout


def test_the_name_tells_encoders_apart(tmp_path: Path, exported: TextEncoderFiles, open_to_new_items: Artifact) -> None:
    shorter = build_tiny_sentence_encoder(tmp_path / "shorter", longest=8)
    other = export_text_encoder(load_encoder(str(shorter)), "tiny", ["red"], tmp_path)
    assert exported.name == open_to_new_items.manifest.text_encoder != other.name


def test_an_encoder_that_is_not_what_was_traced_is_refused(tmp_path: Path, folder: Path) -> None:
    prompted = load_encoder(str(folder / "sentence"))
    prompted.prompts, prompted.default_prompt_name = {"item": "green green green: "}, "item"
    with pytest.raises(ExportError, match="export_text_encoder=false"):
        export_text_encoder(prompted, "prompted", TEXTS, tmp_path)
