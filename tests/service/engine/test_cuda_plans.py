"""What ONNX Runtime plans for a GPU, seen without one: where nodes go, what runs copy, what is captured and replayed.

Its real CUDA provider runs on a CUDA runtime that has no kernels (`cuda_dry`), so nothing here says anything about
answers or times.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from models.artifact import Artifact
from tests.marks import needs_a_compiler

from .cuda_dry.build import build

SHAPES = {"Shape", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Mul", "Sub", "Add", "Gather", "Slice", "Cast"}
"""Operators of the arithmetic of shapes, which stays on the CPU."""

pytestmark = needs_a_compiler


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    build(folder)
    return folder


@pytest.fixture(scope="module", params=["temporal", "encoder_decoder"])
def generator(request: pytest.FixtureRequest) -> Literal["temporal", "encoder_decoder"]:
    chosen: Literal["temporal", "encoder_decoder"] = request.param
    return chosen


@pytest.fixture(scope="module")
def folder(generator: Literal["temporal", "encoder_decoder"], by_generator: dict[str, Artifact]) -> Path:
    return by_generator[generator].folder


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def seen(request: pytest.FixtureRequest, libraries: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.service.engine.cuda_dry.observe"]
    done = subprocess.run(
        [*command, str(libraries / "libcudart.so.13"), str(folder), request.param],
        env=os.environ | {"LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_node_but_arithmetic_of_shapes_is_put_on_the_gpu(seen: dict[str, Any]) -> None:
    assert seen["captures"]
    for placed in seen["placement"].values():
        assert set(placed["CPUExecutionProvider"]) <= SHAPES
        assert sum(placed["CPUExecutionProvider"].values()) < 50
        assert {"Attention", "TopK", "ScatterElements", "GatherElements"} <= set(placed["CUDAExecutionProvider"])


def test_a_shape_is_captured_at_its_first_run_and_then_replayed(seen: dict[str, Any]) -> None:
    assert seen["first"]["captures"] == 1
    for later in (seen["second"], seen["first again"]):
        assert (later["captures"], later["launches"], later["replays"]) == (0, 0, 1)


def test_a_run_is_one_copy_in_and_one_copy_out(seen: dict[str, Any]) -> None:
    for name in ("second", "first again", "long dead lists"):
        assert (seen[name]["to_device"], seen[name]["from_device"]) == (1, 1)


def test_nothing_is_copied_from_or_waited_for_while_capturing(seen: dict[str, Any]) -> None:
    for name in ("first", "other shape", "after outgrown"):
        assert seen[name]["captures"] == 1
        assert (seen[name]["host_copies_captured"], seen[name]["waits_captured"]) == (0, 0)


def test_long_dead_lists_are_searched_without_capture(seen: dict[str, Any]) -> None:
    assert (seen["long dead lists"]["captures"], seen["long dead lists"]["replays"]) == (0, 0)
    assert seen["long dead lists"]["launches"] > 0


def test_a_changed_catalog_is_put_in_place_and_graphs_stay(seen: dict[str, Any]) -> None:
    assert seen["bind"]["to_device"] == 0, "what is brought there is there before it is put in use"
    assert (seen["after bind"]["captures"], seen["after bind"]["replays"]) == (0, 1)


def test_a_catalog_that_has_outgrown_its_memory_is_captured_anew(seen: dict[str, Any]) -> None:
    assert seen["after outgrown"]["captures"] == 1


def test_a_graph_with_work_for_the_cpu_is_searched_without_capture(seen: dict[str, Any]) -> None:
    assert not seen["uncapturable"]["captures"]
    assert seen["uncapturable"]["placement"] == {"CPUExecutionProvider": {"ArgMax": 1}}


def test_no_other_thread_touches_the_device_while_a_graph_is_captured(seen: dict[str, Any]) -> None:
    assert seen["crowded"]["captures"] == seen["crowded"]["shapes"] > 20
    assert seen["crowded"]["disturbed"] == 0
