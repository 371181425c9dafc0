"""The benchmark of items added after training: what is taken out, who is asked for, and what adding does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from deploy import cold_items_live
from deploy.cold_items import (
    Ask,
    Split,
    add_items,
    hold_out,
    last_events,
    recall,
    untouched,
    write_without,
)
from models.artifact import Artifact
from tests.training.ring import ITEMS, write_ring
from training.export import GraphSearch
from training.interactions import Interactions, read_dataset


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    return read_dataset(write_ring(tmp_path_factory.mktemp("ring") / "data"), tie_seed=0)


def test_held_out_items_leave_no_trace(ring: Interactions, tmp_path: Path) -> None:
    cold = hold_out(ITEMS, 0.2, seed=0)
    write_without(ring, cold, tmp_path / "data")
    left = read_dataset(tmp_path / "data", tie_seed=0)
    gone = {ring.item_ids[item] for item in np.flatnonzero(cold).tolist()}
    assert len(gone) == 8
    assert set(left.item_ids) == set(ring.item_ids) - gone
    kept = [ring.item_ids[item] for item in ring.events[~cold[ring.events]].tolist()]
    assert [left.item_ids[item] for item in left.events.tolist()] == kept


def test_who_adds_the_items_later_reads_the_same_split(tmp_path: Path) -> None:
    data = write_ring(tmp_path / "data")
    split = Split(0.2, seed=1, tie_seed=None, skip_wrong_rows=3)
    split.keep(tmp_path / "work")
    assert Split.of(tmp_path / "work") == split
    whole, cold = Split.of(tmp_path / "work").read(data)
    assert whole.events.tolist() == read_dataset(data, tie_seed=None).events.tolist()
    assert cold.tolist() == hold_out(ITEMS, 0.2, seed=1).tolist()


def test_a_folder_of_another_split_is_refused(tmp_path: Path) -> None:
    split = Split(0.2, seed=1, tie_seed=None, skip_wrong_rows=0)
    split.keep(tmp_path)
    split.keep(tmp_path)
    with pytest.raises(ValueError, match="another split"):
        replace(split, tie_seed=0).keep(tmp_path)
    assert Split.of(tmp_path) == split


def test_an_artifact_whose_split_is_not_known_is_refused(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(cold_items_live.main)
    ended = CliRunner().invoke(app, [str(tmp_path / "prorec"), "--data", str(tmp_path)])
    assert ended.exit_code == 2
    assert "split.json" in ended.output


def test_users_are_asked_for_by_their_last_event(ring: Interactions) -> None:
    cold = hold_out(ITEMS, 0.2, seed=0)
    asks = last_events(ring, cold)
    gone = {ring.item_ids[item] for item in np.flatnonzero(cold).tolist()}
    assert {ask.target for ask in asks["added"]} <= gone
    assert not {ask.target for ask in asks["known"]} & gone
    assert not {item for group in asks.values() for ask in group for item in ask.history} & gone


def test_a_known_item_is_asked_for_only_where_training_held_it_back(ring: Interactions) -> None:
    cold = hold_out(ITEMS, 0.2, seed=0)
    kept = np.add.reduceat(~cold[ring.events], ring.offsets[:-1])
    last = ring.events[ring.offsets[1:] - 1]
    assert len(last_events(ring, cold)["known"]) == int((~cold[last] & (kept >= 3)).sum())
    of_two = replace(ring, offsets=np.arange(0, len(ring.events) + 1, 2), user_ids=[])
    nothing_is_cold = np.zeros(ITEMS, dtype=np.bool_)
    assert last_events(of_two, nothing_is_cold)["known"] == []


def test_added_items_are_found_and_the_others_stay(open_to_new_items: Artifact) -> None:
    records = [{"item_id": f"new-{n}", "title": f"red tent {n}"} for n in range(3)]
    before, after = untouched(open_to_new_items), add_items(open_to_new_items, records)
    after.trie.check()
    assert list(after.item_index) == [*before.item_index, "new-0", "new-1", "new-2"]
    manifest = open_to_new_items.manifest
    everything = list(before.item_index)  # with all of it in the history, only added items are left to recommend
    asks = [Ask(everything, f"new-{n}") for n in range(3)]
    for catalog, found in ((before, 0.0), (after, 1.0)):
        graph = open_to_new_items.cpu_graph_path(manifest.beam_widths[-1])
        search = GraphSearch(graph, catalog.inputs, manifest.config.code_length, manifest.history_buckets)
        assert recall(search, catalog, asks, 1.0) == found
