"""Models in 8 bits: what is converted, how near the answers stay, and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.artifact import GOLDEN, Artifact
from models.graph import SearchRow
from service.engine import int8
from service.engine.devices import CPU
from service.engine.golden import GoldenError
from service.engine.precision import PrecisionError, graphs_of
from service.engine.search import Found, GraphSearch, Shape
from service.engine.startup import Engine, assemble, prove
from service.settings import Settings

from .conftest import ENGINE_SETTINGS

IN_8_BITS = Settings(**ENGINE_SETTINGS.model_dump() | {"precision": "int8"})
SHAPE = Shape(width=8, bucket=6)


@pytest.fixture
def encoder_decoder(encoder_decoder_artifact: Artifact) -> Artifact:
    """Its decoder steps share their weights, some of which are stored transposed."""
    return encoder_decoder_artifact


@pytest.fixture(scope="module")
def engine_in_8_bits(artifact: Artifact) -> Engine:
    return assemble(artifact, IN_8_BITS)


def rows(count: int) -> list[SearchRow]:
    rng = np.random.default_rng(3)
    return [SearchRow(rng.integers(0, 60, rng.integers(1, 7)).astype(np.int32)) for _ in range(count)]


def found_by(artifact: Artifact) -> tuple[Found, Found]:
    """What fp32 and int8 find for the same rows."""
    exact, rounded = (GraphSearch(artifact, 1, graphs=graphs_of(artifact, p, CPU)) for p in ("fp32", "int8"))
    return exact.run(rows(16), SHAPE), rounded.run(rows(16), SHAPE)


def products(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """Operator → the weights that are multiplied by it."""
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm", "MatMulIntegerToFloat") and node.input[1] in weights:
            found.setdefault(node.op_type, []).append(node.input[1])
    return found


def test_every_product_with_a_weight_is_converted_and_each_weight_once(encoder_decoder: Artifact) -> None:
    converted = graphs_of(encoder_decoder, "int8", CPU)[8]
    assert isinstance(converted, bytes)
    before, after = (
        graph.graph for graph in (onnx.load(encoder_decoder.cpu_graph_path(8)), onnx.load_from_string(converted))
    )
    count = sum(map(len, products(before).values()))
    (left,) = products(after).values()
    assert count == len(left) > len(set(left))
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.initializer}
    assert {kept[name].dtype for name in left} == {np.dtype(np.int8)}
    assert not set().union(*products(before).values()) & kept.keys()


@pytest.mark.parametrize(("overflow", "largest"), [(True, 63), (False, 127)])
def test_weights_have_seven_bits_where_products_of_bytes_overflow(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, overflow: bool, largest: int
) -> None:
    monkeypatch.setattr(int8, "products_overflow", lambda: overflow)
    converted = graphs_of(artifact, "int8", CPU)[8]
    assert isinstance(converted, bytes)
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(converted).graph.initializer]
    assert {int(np.abs(array.astype(int)).max()) for array in arrays if array.dtype == np.int8} == {largest}


@pytest.mark.parametrize("name", ["artifact", "encoder_decoder"])
def test_scores_stay_near_those_of_fp32(name: str, request: pytest.FixtureRequest) -> None:
    exact, rounded = found_by(request.getfixturevalue(name))
    gaps = []
    for row in range(16):
        scores = dict(zip(exact.item[row].tolist(), exact.code_score[row].tolist(), strict=True))
        pairs = zip(rounded.item[row].tolist(), rounded.code_score[row].tolist(), strict=True)
        gaps += [abs(scores[item] - score) for item, score in pairs if item in scores]
    spread = np.ptp(exact.code_score, axis=1)
    assert len(gaps) > 0.8 * exact.item.size
    assert 0 < np.median(gaps) < 0.1 * np.median(spread)


def test_an_answer_does_not_depend_on_whose_requests_share_the_batch(engine_in_8_bits: Engine) -> None:
    together = engine_in_8_bits.search.run(rows(16), SHAPE)
    for place, row in enumerate(rows(16)):
        alone = engine_in_8_bits.search.run([row], SHAPE)
        assert alone.item[0].tolist() == together.item[place].tolist()
        np.testing.assert_allclose(alone.score[0], together.score[place], atol=1e-4)


def test_the_overlap_is_told_and_one_below_the_limit_is_refused(
    artifact: Artifact, engine_in_8_bits: Engine, tmp_path: Path
) -> None:
    lenient, strict = (
        Settings(**IN_8_BITS.model_dump() | {"precision_overlap_percent": percent}) for percent in (50, 100)
    )
    before = prove(artifact, engine_in_8_bits, lenient)
    recorded = artifact.golden()
    missed = recorded[0]["items"][0]
    other = next(item for item in map(artifact.item_ids.__getitem__, range(60)) if item not in recorded[0]["items"])
    recorded[0]["items"] = [other if item == missed else item for item in recorded[0]["items"]]
    (tmp_path / GOLDEN).write_text(json.dumps(recorded))
    for name in artifact.manifest.files.keys() - {GOLDEN}:
        (tmp_path / name).symlink_to(artifact.folder / name)
    artifact = replace(artifact, folder=tmp_path)
    overlap = prove(artifact, engine_in_8_bits, lenient)
    assert 0.5 <= overlap < 1
    assert before - overlap == pytest.approx(1 / sum(len(golden["items"]) for golden in recorded))
    with pytest.raises(GoldenError) as refusal:
        prove(artifact, engine_in_8_bits, strict)
    share = f"{100 * overlap:.1f} % of the items of its golden requests"
    assert str(refusal.value) == f"model tiny-1 finds {share}; PROREC_PRECISION_OVERLAP_PERCENT is 100"


def test_fp32_is_held_to_the_recorded_answers_whatever_the_limit(artifact: Artifact, engine_in_8_bits: Engine) -> None:
    settings = Settings(**ENGINE_SETTINGS.model_dump() | {"precision_overlap_percent": 0})
    with pytest.raises(GoldenError, match="has another answer here"):
        prove(artifact, engine_in_8_bits, settings)


def test_a_model_without_golden_requests_cannot_be_converted(
    artifact: Artifact, tmp_path: Path, socket_path: Path
) -> None:
    for file in artifact.folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / GOLDEN).unlink()
    (tmp_path / GOLDEN).write_text("[]")
    sentence = "model tiny-1 has no golden requests to convert it by"
    with pytest.raises(PrecisionError, match=sentence):
        graphs_of(replace(artifact, folder=tmp_path), "int8", CPU)
    command = [sys.executable, "-m", "service.engine", "--artifact", str(tmp_path), "--socket", str(socket_path)]
    ended = subprocess.run(
        command, env={"PROREC_PRECISION": "int8"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (2, f"the engine could not start: {sentence}\n")


def test_without_the_package_onnx_it_is_refused_in_one_sentence(artifact: Artifact, socket_path: Path) -> None:
    code = "import sys; sys.modules['onnx'] = None; from service.engine.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--artifact", str(artifact.folder), "--socket", str(socket_path)]
    ended = subprocess.run(
        command, env={"PROREC_PRECISION": "int8"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    reason = "PROREC_PRECISION=int8: the package onnx is missing; python -m pip install 'prorec-serve[int8]'"
    assert ended.stderr == f"the engine could not start: {reason}\n"
