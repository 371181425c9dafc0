"""`make bench-gpu`, tried out at small sizes on the CPU, and what it concludes from answers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bench import gpu
from deploy.bench.gpu_folder import HISTORIES, NETWORKS, Candidate, candidate, read_histories, write_histories
from deploy.bench.gpu_grid import Cell, rate_findings
from deploy.bench.gpu_parity import answers, compare, parity_finding
from deploy.bench.gpu_prepare import user_histories, write_network
from deploy.bench.networks import NETWORKS as NETWORKS_AS_SERVED
from deploy.bench.networks import prepare_network
from deploy.errors import BenchError
from models.artifact import Artifact
from models.config import ModelConfig
from models.graph import SearchRow
from service.engine.search import Found, GraphSearch, Shape

ONLY_TORCH_S_SIDE = ("torch", "typer", "onnx", "onnxscript", "transformers", "fastapi", "httpx", "msgspec", "redis")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `prepare` writes it, with small networks."""
    folder, work = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("work")
    for name in NETWORKS:
        served = NETWORKS_AS_SERVED[name]
        gate = (8, 1) if served.gate_width else (None, None)
        config = ModelConfig(
            generator=served.generator, code_length=2, tokens_per_level=16, width=16, feed_forward=32, encoder_layers=1,
            decoder_layers=1, history_length=20, dropout=0.0, gate_width=gate[0], gate_levels=gate[1],
        )  # fmt: skip
        prepared = prepare_network(name, config, work, items=150, widths=(20,), buckets=(20,))
        write_network(prepared, folder / name)
    return folder


def test_the_gpu_s_side_runs_on_a_bare_machine_and_says_what_it_left_out(folder: Path) -> None:
    """With nothing of what only the other side needs."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys({ONLY_TORCH_S_SIDE!r}))
from deploy.bench.gpu import main
sys.exit(main(["run", {str(folder)!r}, "--provider", "cpu", "--small"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text())
    assert results["failed"] == []
    assert [line.split(":")[0] for line in results["left_out"]] == [
        "answers of a trained model on real histories",
        "through HTTP",
    ]
    parity = {found["what"]: found["value"] for found in results["findings"] if found["row"] == "parity"}
    assert [value for what, value in parity.items() if "fp32" in what] == [100.0] * len(NETWORKS)
    assert len(parity) == 2 * len(NETWORKS)
    measured = {(cell["network"], cell["precision"], cell["beams"], cell["batch"]) for cell in results["grid"]}
    assert measured == {(name, bits, 20, batch) for name in NETWORKS for bits in ("fp32", "fp16") for batch in (1, 8)}
    assert sum(found["row"] == "selection" for found in results["findings"]) == 2 * len(NETWORKS)


def test_a_part_that_fails_costs_no_other(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the runtime raises: its errors have no class in common but Exception."""

    class RuntimeFailError(Exception):
        pass

    failing, *others = NETWORKS

    def measure(network: Candidate, *_: Any) -> Cell:
        if network.name == failing:
            raise RuntimeFailError("CUDA failure 900")
        return Cell(network.name, "fp32", False, 20, 1, 1, 1.0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(gpu, "measure", measure)
    shutil.copytree(folder, tmp_path / "folder")
    assert gpu.main(["run", str(tmp_path / "folder"), "--provider", "cpu", "--small", "--no-http"]) == 1
    results = json.loads((tmp_path / "folder" / "results.json").read_text())
    assert results["failed"] == [
        f"{failing} {precision}: RuntimeFailError: CUDA failure 900" for precision in ("fp32", "fp16")
    ]
    assert {cell["network"] for cell in results["grid"]} == set(others)
    assert sum(found["row"] == "parity" for found in results["findings"]) == 2 * len(NETWORKS)


def test_the_networks_of_both_machines_are_the_same() -> None:
    assert set(NETWORKS) == set(NETWORKS_AS_SERVED)


def test_a_folder_that_was_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="was it prepared"):
        candidate(tmp_path, "temporal")


class Says:
    """A search that always finds the same."""

    def __init__(self, items: Sequence[int], scores: Sequence[float]) -> None:
        self._items, self._scores = items, scores

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> Found:  # noqa: ARG002
        item = np.array([self._items] * len(rows), dtype=np.int32)
        score = np.array([self._scores] * len(rows), dtype=np.float32)
        return Found(item, score, score, score[..., None], item >= 0, 0.0)


ROWS = [SearchRow(np.array([0], dtype=np.int32))] * 3


@pytest.mark.parametrize(
    ("items", "scores", "exact", "alike"),
    [
        ([5, 6, 7], [0.0, -1.0, -2.0], 3, 3),
        ([5, 7, 6], [0.0, -1.0, -2.0], 0, 3),  # other items at two places, of scores that cannot be told apart
        ([5, 7, 6], [0.0, -1.0, -1.5], 0, 0),
        ([5, 6, -1], [0.0, -1.0, -2.0], 0, 0),
    ],
)
def test_only_near_ties_may_change_places(
    artifact: Artifact, items: list[int], scores: list[float], exact: int, alike: int
) -> None:
    one, other = Says(items, scores), Says([5, 6, 7], [0.00001, -1.0, -2.0])
    found = compare(answers(one, artifact, ROWS, 8), answers(other, artifact, ROWS, 8))
    assert (found.rows, found.exact, found.alike) == (3, exact, alike)


def test_another_model_s_answers_are_not_alike(artifact: Artifact, another_artifact: Artifact) -> None:
    rows = [SearchRow(np.array([item], dtype=np.int32)) for item in range(40)]
    wanted = answers(GraphSearch(artifact, 1), artifact, rows, 8)
    same = compare(answers(GraphSearch(artifact, 1), artifact, rows, 8), wanted)
    assert (same.exact, same.overlap) == (40, 1.0)
    different = compare(wanted, answers(GraphSearch(another_artifact, 1), artifact, rows, 8))
    assert different.alike < 20
    assert parity_finding("tiny", different, "fp32").met is False
    assert parity_finding("tiny", different, "fp16").met is None


@pytest.fixture(scope="module")
def artifact(open_to_new_items: Artifact) -> Artifact:
    return open_to_new_items


def test_the_best_rate_at_the_beam_of_the_goal_counts() -> None:
    cells = [
        Cell("temporal", "fp32", True, beams, batch, 9, 1.0, 1.0, 1.0, rate)
        for beams, batch, rate in ((20, 512, 5e5), (50, 8, 9e4), (50, 512, 2e5))
    ]
    found = list(rate_findings(cells))
    assert [(finding.value, finding.met) for finding in found] == [(2e5, True)]


def test_histories_come_back_as_they_were_written(tmp_path: Path) -> None:
    histories = [np.array(numbers, dtype=np.int32) for numbers in ([4, 2], [], [9])]
    write_histories(tmp_path / HISTORIES, histories)
    assert [history.tolist() for history in read_histories(tmp_path / HISTORIES)] == [[4, 2], [], [9]]


def test_histories_of_users_are_indices_of_the_artifact(artifact: Artifact, tmp_path: Path) -> None:
    """Events of items that the artifact does not know are passed over; then come the same users, an event earlier."""
    events = [f"u{user},{item},{second}" for user in (1, 2) for second, item in enumerate(_items(user))]
    (tmp_path / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]) + "\n")
    (tmp_path / "items.jsonl").write_text("")
    found = user_histories(artifact, tmp_path, 100)
    expected = [[1], [1, 11], [1, 11, 21], [2], [2, 12], [2, 12, 22]]
    assert sorted(history.tolist() for history in found) == expected
    assert len(user_histories(artifact, tmp_path, 2)) == 2


def _items(user: int) -> list[str]:
    return [f"item-{user}", f"item-{10 + user}", "stranger", f"item-{20 + user}", f"item-{30 + user}"]


def test_a_folder_that_was_not_prepared_is_said_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["run", str(tmp_path), "--provider", "cpu"]) == 2
    assert "was it prepared" in capsys.readouterr().err
