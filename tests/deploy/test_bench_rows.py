"""What benchmarks compute from what they measured."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from deploy.bench.any_code import AnyCodeSearch
from deploy.bench.findings import Finding, unmet
from deploy.bench.histories import batches, padded
from deploy.bench.networks import NETWORKS
from deploy.bench.precision import trained_findings
from deploy.bench.timing import Times, interleaved
from deploy.bench.trained import free_search_findings, random_history_findings
from models.artifact import Artifact
from models.codes import CodeTable
from models.graph import SearchRow, trie_inputs
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie
from service.engine.search import GraphSearch, Shape

SPIN, LARGE_PAGES = {"GOMP_SPINCOUNT": "5000"}, {"THP_MEM_ALLOC_ENABLE": "1"}


@pytest.mark.parametrize(
    ("module", "told"), [("deploy.bench.cells", SPIN), ("deploy.bench_training", SPIN | LARGE_PAGES)]
)
def test_torch_is_told_how_to_run_before_it_is_loaded(module: str, told: dict[str, str]) -> None:
    code = f"""
import os, sys
sys.modules["torch"] = None  # so that its import is where it ends
try:
    import {module}
except ImportError:
    print({{name: os.environ.get(name) for name in {list(told)}}})
"""
    own = {name: value for name, value in os.environ.items() if name not in told}
    ended = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert ended.stdout == f"{told}\n"


def test_the_median_of_the_ratios_is_not_the_ratio_of_the_medians() -> None:
    times = Times({"slow": [4.0, 40.0, 12.0], "fast": [4.0, 8.0, 2.0]})
    assert times.ratios("slow", "fast") == [1.0, 5.0, 6.0]
    assert times.ratio("slow", "fast") == 5.0
    assert times.ms("slow") == 12_000.0


def test_calls_take_turns_until_the_budget_is_spent() -> None:
    order: list[str] = []

    def call(name: str) -> float:
        time.sleep(0.06)  # long enough that one call makes a round
        order.append(name)
        return 0.0

    times = interleaved({"a": lambda: call("a"), "b": lambda: call("b")}, rounds=50, budget_s=0.5)
    assert "".join(order).removeprefix("aabb").startswith("abab")
    assert 1 <= len(times.rounds["a"]) < 10


@pytest.mark.parametrize(("value", "at_most", "met"), [(2.0, False, True), (1.9, False, False), (2.1, True, False)])
def test_a_goal_is_met_or_not(value: float, at_most: bool, met: bool) -> None:
    finding = Finding("row", "speed", value, "×", 2.0, at_most=at_most)
    assert finding.met is met
    assert unmet([finding]) == ([] if met else ["speed"])
    assert ("NOT MET" in finding.line()) is not met


def test_a_figure_without_a_goal_is_neither() -> None:
    finding = Finding("row", "speed", 1.0, "×")
    assert finding.met is None
    assert unmet([finding]) == []


def test_searches_of_one_bucket_share_batches_in_order_of_arrival() -> None:
    histories = [np.arange(length, dtype=np.int32) for length in (3, 9, 8, 30, 1)]
    closed = batches(histories, (8, 20), rows=2)
    assert [(bucket, [len(row.history) for row in rows]) for bucket, rows in closed] == [
        (8, [3, 8]),
        (8, [1]),
        (20, [9, 20]),
    ]
    assert closed[-1][1][1].history.tolist() == list(range(10, 30))


def test_a_padded_history_is_as_long_as_the_longest_and_finds_the_same(open_to_new_items: Artifact) -> None:
    history = np.array([7, 3, 9], dtype=np.int32)
    assert padded(np.arange(30, dtype=np.int32)).tolist() == list(range(10, 30))
    assert padded(history).tolist() == [-1] * 17 + [7, 3, 9]
    search = GraphSearch(open_to_new_items, 1)
    short, long = (search.run([SearchRow(items)], Shape(4, 6)) for items in (history, padded(history)[-6:]))
    assert short.item.tolist() == long.item.tolist()


def test_a_sound_model_gives_no_faults(open_to_new_items: Artifact) -> None:
    found = {finding.what: finding.value for finding in random_history_findings(open_to_new_items, 1, count=100)}
    assert found == {"invalid codes": 0, "double items": 0, "items of the history": 0, "missing items": 0}


def test_a_search_without_a_trie_writes_codes_of_no_item(open_to_new_items: Artifact) -> None:
    histories = [np.array([item], dtype=np.int32) for item in range(20)]
    invalid, missing = free_search_findings(open_to_new_items, histories, beams=8, threads=1)
    assert 0 < invalid.value < 100
    assert missing.value > invalid.value - 20  # 8 beams cannot fill 10 places


@pytest.mark.parametrize("generator", ["temporal", "encoder_decoder"])
def test_a_search_without_a_trie_is_a_search_over_all_codes(by_generator: dict[str, Artifact], generator: str) -> None:
    artifact = by_generator[generator]
    config = artifact.manifest.config
    tokens = np.arange(config.tokens_per_level, dtype=np.int32)
    every = np.stack(np.meshgrid(*[tokens] * config.code_length, indexing="ij"), axis=-1).reshape(
        -1, config.code_length
    )
    trie = CodeTrie.build(CodeTable(every, config.tokens_per_level))
    output = {"item_output": np.zeros((len(every), config.width), dtype=np.float32)}
    whole = GraphSearch(artifact, 1)
    whole.bind(trie_inputs(trie) | PrefixOutput.of_first_items(trie, config.width).inputs() | output)()
    rows, shape = (
        [SearchRow(np.array([item, item + 1], dtype=np.int32)) for item in range(20)],
        Shape(8, 6, rescore=False),
    )
    codes = AnyCodeSearch(artifact, 1).run(rows, shape)
    assert codes.tolist() == every[whole.run(rows, shape).item].tolist()
    assert len({tuple(code) for code in codes[:, 0].tolist()}) > 5  # the rows have beams of their own


def test_8_bits_are_held_against_float32_on_the_same_histories(open_to_new_items: Artifact) -> None:
    histories = [np.array([item, item + 1], dtype=np.int32) for item in range(40)]
    overlap, worst, first, speed = trained_findings(open_to_new_items, histories, threads=1, rounds=1)
    assert 50 < overlap.value < 100  # of so small and random a network not all items stay
    assert worst.value < overlap.value
    assert 50 < first.value <= 100
    assert speed.value > 0


def test_all_networks_can_share_a_catalog() -> None:
    shared = ("code_length", "tokens_per_level", "width", "history_length")
    assert len({tuple(getattr(config, name) for name in shared) for config in NETWORKS.values()}) == 1
