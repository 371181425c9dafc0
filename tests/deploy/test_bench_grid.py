"""The grid survives interruptions: what has a row is not measured again, what failed says why."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.bench.cells import Cell, differing_rows, grid
from deploy.bench.grid import Results, watch
from deploy.bench.table import markdown
from deploy.errors import BenchError

CELLS = [Cell("temporal", 10, 4, batch, 5) for batch in (1, 2, 3)]
SETTING = {"threads": 1, "graph": "a"}


def test_a_cell_that_failed_is_tried_again_and_once_in_a_run(tmp_path: Path) -> None:
    results = Results(tmp_path / "folder" / "grid.jsonl")
    assert results.pending(CELLS, SETTING) == CELLS
    results.append(CELLS[0].as_row() | SETTING | {"engine_ms": 1.0})
    results.append(CELLS[2].as_row() | SETTING | {"error": "took too long"})
    assert results.pending(CELLS, SETTING, tried=1) == [CELLS[1]]
    assert results.pending(CELLS, SETTING, tried=2) == CELLS[1:]


@pytest.mark.parametrize("other", [{"threads": 2}, {"graph": "b"}])
def test_a_row_of_another_graph_or_number_of_threads_does_not_count(tmp_path: Path, other: dict[str, object]) -> None:
    results = Results(tmp_path / "grid.jsonl")
    results.append(CELLS[0].as_row() | SETTING)
    assert results.pending(CELLS, SETTING | other) == CELLS


def test_a_line_that_was_cut_off_is_measured_again_and_spoils_no_other(tmp_path: Path) -> None:
    results = Results(tmp_path / "grid.jsonl")
    results.append(CELLS[0].as_row() | SETTING)
    with results.path.open("a") as file:
        file.write(json.dumps(CELLS[1].as_row() | SETTING)[:-5])
    assert results.pending(CELLS, SETTING) == CELLS[1:]
    results.append(CELLS[1].as_row() | SETTING)
    assert results.pending(CELLS, SETTING) == CELLS[2:]


def test_a_cell_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert watch(child, Results(tmp_path / "grid.jsonl"), limit_s=0.3, start_s=0.0) == "took longer than 0 s"
    assert child.poll() is not None


def test_a_cell_that_takes_its_process_down_says_so(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import os; os.abort()"])
    assert watch(child, Results(tmp_path / "grid.jsonl"), limit_s=30.0) == "its process ended with -6"


def test_every_row_gives_the_next_cell_its_time(tmp_path: Path) -> None:
    results = Results(tmp_path / "grid.jsonl")
    script = "import sys, time\nfor _ in range(3):\n  time.sleep(1.2)\n  open(sys.argv[1], 'a').write('{}\\n')"
    child = subprocess.Popen([sys.executable, "-c", script, str(results.path)])
    assert watch(child, results, limit_s=3.0, start_s=0.0) == ""
    assert len(results.rows()) == 3


def test_the_grid_has_every_size_once() -> None:
    cells = grid()
    assert len(cells) == len(set(cells)) == 3 * 4 * 4 * 4 * 3
    assert {(c.beams, c.batch) for c in cells if c.with_generate} == {(20, 1), (20, 8), (50, 1), (50, 8)}
    assert {c.network for c in cells if c.with_generate} == {"encoder_decoder"}


def _answer(*items: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    scores = {item: -float(item) for item in items}
    return np.array([items]), np.array([[scores[item] for item in items]], dtype=np.float32)


def test_an_item_that_fell_off_a_beam_is_counted() -> None:
    assert differing_rows(*_answer(*range(20)), *_answer(*range(20))) == 0
    assert differing_rows(*_answer(*range(20)), *_answer(*range(19), 25)) == 1


def test_another_answer_is_no_rounding() -> None:
    with pytest.raises(BenchError, match="common"):
        differing_rows(*_answer(*range(20)), *_answer(*range(17), 25, 26, 27))
    items, scores = _answer(*range(20))
    with pytest.raises(BenchError, match="apart"):
        differing_rows(items, scores, items, scores + np.float32(0.001))


def test_the_table_shows_each_cell_once_what_failed_and_what_was_left_out() -> None:
    cells = [Cell("temporal", 10_000, beams, 1, 5) for beams in (20, 50)] + [Cell("temporal", 10_000, 20, 8, 20)]
    figures = {"engine_ms": 1.234, "eager_ratio": 2.0, "free_ratio": 120.4}
    shares = [{"invalid": invalid, "missing_of_10": invalid / 2} for invalid in (0.25, 0.5, 1.0)]
    rows = [
        cells[0].as_row() | {"graph": "older"} | figures | {"engine_ms": 9.0},
        *(cell.as_row() | figures | share for cell, share in zip(cells, shares, strict=True)),
        Cell("temporal", 10_000, 50, 8, 20).as_row() | {"error": "took longer than 9 s"},
    ]
    lines, ratios = list(markdown(rows)), (("eager", "2"), ("free", "120"))
    assert lines[0] == "| temporal: items, history, batch | beam 20 | beam 50 |"
    assert lines[2] == "| 10,000, 5, 1 | 1.23 ms; eager 2 ×, free 120 × | 1.23 ms; eager 2 ×, free 120 × |"
    assert lines[3] == "| 10,000, 20, 8 | 1.23 ms; eager 2 ×, free 120 × | – |"
    assert lines[5:7] == [f"* temporal, {n}: median {r} × in 3 cells, half of them {r} to {r} ×" for n, r in ratios]
    assert lines[7:9] == [
        "* temporal, free: beams that name no item: median 50 % in 3 cells, 25 to 100 %",
        "* temporal, free: missing of 10 items after its post-filter: median 25 % in 3 cells, 12.5 to 50 %",
    ]
    failed = "network temporal, items 10000, beams 50, batch 8, history 20: took longer than 9 s"
    assert lines[10:12] == [f"* failed: {failed}", f"* 4 of {len(grid())} cells of the grid were tried"]
    assert lines[12].startswith("* tried by items: 10,000: 4 of 144, 100,000: 0 of 144")
