from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from models.artifact import TEXT_ENCODER, TOKENIZER, Artifact
from models.text_encoder import OUTPUT
from tests.catalog_artifact import catalog_artifact

WIDTH = 3
WORDS = {"[UNK]": 0, "red": 1, "green": 2, "nail": 3, "polish": 4, "tent": 5}


@pytest.fixture(scope="session")
def text_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One item, and a text encoder that adds up a random vector for each word."""
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding()
    files = {TEXT_ENCODER: _sum_of_words(), TOKENIZER: tokenizer.to_str().encode()}
    return catalog_artifact(tmp_path_factory.mktemp("text"), [{}], semantic_width=WIDTH, text_encoder=files)


def _sum_of_words() -> bytes:
    table = np.random.default_rng(0).normal(size=(len(WORDS), WIDTH)).astype(np.float32)
    table[0] = 0.0  # unknown words, and padding
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("ReduceSum", ["vectors", "axis"], [OUTPUT], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "r.sock"
