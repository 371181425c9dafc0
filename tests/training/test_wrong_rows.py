"""Wrong rows of a dataset folder: all told at once, or left out where that is wanted."""

import gzip
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.config import load_config
from training.errors import ConfigError, DataError
from training.interactions import Interactions, leave_one_out, read_dataset
from training.pipeline import Run
from training.work_folder import fingerprint

from .ring import ring_settings, write_ring
from .test_interactions import EVENTS, ITEMS, write_folder

RIGHT = "user_id,item_id,timestamp\nu,a,1\nu,b,2\nu,z,3\nu,c,4\n"


def refusal(folder: Path, *, skip_wrong_rows: int = 0) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(DataError) as caught:
        read_dataset(folder, skip_wrong_rows=skip_wrong_rows)
    return str(caught.value).replace(f"{folder}/", "").split("\n")


def fingerprints(data: Interactions) -> tuple[str, str]:
    split = leave_one_out(data)
    return split.fingerprint(), fingerprint(split, "minilm")


def test_one_wrong_row_is_one_sentence(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + "u,a\nu,b,3\n")
    assert refusal(tmp_path) == ["interactions.csv:4: The row has 2 columns where the header has 3."]


def test_wrong_rows_are_told_together_in_their_order(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + 'u,a\nu,b,3\n,a,1\nu,"a"b,1\nu,c,4\nu,a,noon\n')
    assert refusal(tmp_path) == [
        "interactions.csv:4: The row has 2 columns where the header has 3.",
        "interactions.csv:6: The user_id is empty.",
        "interactions.csv:7: The row is not valid CSV: ',' expected after '\"'.",
        "interactions.csv:9: The timestamp 'noon' is not a finite number.",
    ]


def test_a_quotation_mark_that_swallows_the_file_is_suspected(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + 'u,"a,1\n' + "u,b,2\n" * 30_000)
    assert "a quotation mark may not be closed" in refusal(tmp_path)[0]


def test_wrong_items_are_told_together(tmp_path: Path) -> None:
    write_folder(tmp_path, items=ITEMS + '{}\n{"item_id": "b"}\n{"item_id": "d"}\n{"item_id": "d"}\n')
    assert refusal(tmp_path) == [
        "items.jsonl:4: The object has no item_id that is a string.",
        "items.jsonl:5: The item_id 'b' was already given in line 2.",
        "items.jsonl:7: The item_id 'd' was already given in line 6.",
    ]


def test_wrong_rows_of_both_files_are_told_together(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + "u,a\nu,z,3\n", items=ITEMS + "{}\n")
    assert refusal(tmp_path) == [
        "items.jsonl:4: The object has no item_id that is a string.",
        "interactions.csv:4: The row has 2 columns where the header has 3.",
    ]


def test_the_first_twenty_are_named_and_the_others_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + "u,a\n" * 1234)
    *named, last = refusal(tmp_path)
    assert [row.split(":")[1] for row in named] == [str(line) for line in range(4, 24)]
    assert last == "… and 1,214 more in interactions.csv"


def test_what_ends_the_reading_is_told_after_what_was_found_before(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS.encode() + b"u,a\n" * 21 + b"u,\xff,1\nu,b\n")
    *named, more, last = refusal(tmp_path)
    assert len(named) == 20
    assert more == "… and 1 more in interactions.csv"
    assert last == "interactions.csv:25: Byte 3 of this line is not valid utf-8."
    packed = gzip.compress((EVENTS + "u,a\n" + "".join(f"u{n},a,{n * n}\n" for n in range(9999))).encode())
    (tmp_path / "interactions.csv").write_bytes(packed[:-20])
    first, last = refusal(tmp_path, skip_wrong_rows=5)
    assert first.startswith("interactions.csv:4: ")
    assert last.endswith("The compressed data is cut short or damaged here.")


def test_the_header_is_no_row_that_could_be_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path, "user,item_id,timestamp\nu,a,1\nu,b\n")
    (sentence,) = refusal(tmp_path, skip_wrong_rows=9)
    assert sentence.startswith("interactions.csv:1: The header must name the column user_id once")


def test_data_without_their_wrong_rows_are_as_if_these_had_never_been(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = read_dataset(write_folder(tmp_path, RIGHT))
    wrong = RIGHT.replace("u,z,3\n", "v,y,never\nghost,,2\nu,z,3\n,y,2\n")
    write_folder(tmp_path, wrong, "{\n" + ITEMS + '{"item_id": "a"}\n')
    caplog.clear()

    data = read_dataset(tmp_path, skip_wrong_rows=3)

    assert (data.user_ids, data.item_ids, data.items) == (expected.user_ids, expected.item_ids, expected.items)
    assert np.array_equal(data.timestamps, expected.timestamps)
    assert fingerprints(data) == fingerprints(expected)
    assert [message.replace(f"{tmp_path}/", "") for message in caplog.messages[:-1]] == [
        "left out: items.jsonl:1: The line is not valid JSON: Expecting property name enclosed in double quotes at "
        "column 1.",
        "left out: items.jsonl:5: The item_id 'a' was already given in line 2.",
        "items.jsonl: 2 wrong lines are left out",
        "left out: interactions.csv:4: The timestamp 'never' is not a finite number.",
        "left out: interactions.csv:5: The item_id is empty.",
        "left out: interactions.csv:7: The user_id is empty.",
        "interactions.csv: 3 wrong lines are left out",
    ]


def test_no_more_are_left_out_than_may_be(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + "u,a\n" * 3)
    assert len(read_dataset(tmp_path, skip_wrong_rows=3).events) == 2
    *named, last = refusal(tmp_path, skip_wrong_rows=2)
    assert len(named) == 3
    assert last == "interactions.csv: 3 lines are wrong, and at most 2 may be left out."


def test_of_many_that_are_left_out_the_first_twenty_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path, EVENTS + "u,a\n" * 30)
    with caplog.at_level(logging.WARNING):
        read_dataset(tmp_path, skip_wrong_rows=30)
    assert len(caplog.messages) == 22
    assert caplog.messages[-2:] == [
        f"left out: … and 10 more in {tmp_path / 'interactions.csv'}",
        f"{tmp_path / 'interactions.csv'}: 30 wrong lines are left out",
    ]


@pytest.mark.parametrize("swallowed", ['u,"a,3\nu,b,4\nu,c",5\n', 'u,"a,3\nu,b,4\nu,"c,5\n'])
def test_a_stray_quotation_mark_counts_every_line_that_it_takes_along(tmp_path: Path, swallowed: str) -> None:
    write_folder(tmp_path, EVENTS + swallowed + "u,c,6\n")
    (_, limit) = refusal(tmp_path, skip_wrong_rows=2)
    assert limit == "interactions.csv: 3 lines are wrong, and at most 2 may be left out."
    assert read_dataset(tmp_path, skip_wrong_rows=3).timestamps.tolist() == [1, 2, 6]


def test_a_quotation_mark_that_is_never_closed_takes_all_that_follows(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + 'u,a\nu,"b,3\nu,c,4\n')
    assert [row.split(":")[1] for row in refusal(tmp_path)] == ["4", "5"]
    assert read_dataset(tmp_path, skip_wrong_rows=3).timestamps.tolist() == [1, 2]


def test_what_a_quotation_mark_has_swallowed_is_not_all_shown(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + 'u,"' + "a,3\n" * 5000 + '",5\n')
    (sentence,) = refusal(tmp_path)
    assert sentence.endswith("…' holds a line break.")
    assert len(sentence) < 200


def in_milliseconds(rows: int) -> str:
    return "".join(f"u,a,{1_700_000_000_000 + row}\n" for row in range(rows))


def test_a_file_in_milliseconds_is_one_sentence_and_cannot_be_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + "u,b\n" + in_milliseconds(1234))
    said = "The timestamp '1700000000000' looks like milliseconds and is too large to be seconds"
    for skip_wrong_rows in (0, 9999):
        assert refusal(tmp_path, skip_wrong_rows=skip_wrong_rows) == [
            f"interactions.csv:5: {said}, as are those of 1,233 more rows."
        ]


def test_rows_in_milliseconds_among_more_right_ones_are_wrong_rows(tmp_path: Path) -> None:
    write_folder(tmp_path, RIGHT + in_milliseconds(4))
    assert [row.split(":")[1] for row in refusal(tmp_path)] == ["6", "7", "8", "9"]
    assert read_dataset(tmp_path, skip_wrong_rows=4).timestamps.tolist() == [1, 2, 3, 4]


def test_a_single_row_in_milliseconds_is_named_as_it_is(tmp_path: Path) -> None:
    write_folder(tmp_path, "user_id,item_id,timestamp\n" + in_milliseconds(1))
    (sentence,) = refusal(tmp_path)
    assert sentence.endswith("is too large to be seconds.")


def test_items_left_out_do_not_move_embeddings_to_other_items(ring: Path, tmp_path: Path) -> None:
    data = write_ring(tmp_path / "data")
    items = data / "items.jsonl"
    items.write_text("{}\n" + items.read_text())
    config = load_config("quickstart", [*ring_settings(ring / "text.npy"), "skip_wrong_rows=1"])
    with pytest.raises(ConfigError, match=r"text\.npy has a row for each item, so wrong items cannot be left out"):
        Run(data, tmp_path / "v1", config).prepare()


def test_a_run_goes_on_where_the_same_events_are_used(ring: Path, tmp_path: Path) -> None:
    data = write_ring(tmp_path / "data")
    events = data / "interactions.csv"
    right = events.read_text()

    def prepare(wrong: str, skip_wrong_rows: int) -> None:
        events.write_text(right + wrong)
        changes = [*ring_settings(ring / "text.npy"), f"skip_wrong_rows={skip_wrong_rows}"]
        Run(data, tmp_path / "v1", load_config("quickstart", changes)).prepare()

    prepare("u0,i1,never\n", 1)
    prepare("u0,i1,never\n", 5)
    prepare("", 0)
    with pytest.raises(DataError, match="'never' is not a finite number"):
        prepare("u0,i1,never\n", 0)
    with pytest.raises(ConfigError, match="has changed since"):
        prepare("u0,i1,never\nu0,i1,999999\n", 1)


def test_the_command_line_tells_all_and_leaves_out_what_it_may(tmp_path: Path) -> None:
    write_folder(tmp_path, EVENTS + "u,a\nu,b\n")

    def evaluate(*options: str) -> tuple[int, list[str]]:
        words = ["evaluate", str(tmp_path / "v1"), "--data", str(tmp_path), *options]
        ended = subprocess.run([sys.executable, "-m", "training", *words], capture_output=True, text=True, check=False)
        return ended.returncode, ended.stderr.splitlines()

    path = tmp_path / "interactions.csv"
    assert evaluate() == (2, [f"error: {tmp_path / 'v1'} is not a folder"])
    (tmp_path / "v1").mkdir()
    code, lines = evaluate()
    assert code == 1
    assert lines == [
        f"error: {path}:4: The row has 2 columns where the header has 3.",
        f"{path}:5: The row has 2 columns where the header has 3.",
    ]
    code, lines = evaluate("--skip-wrong-rows", "2")
    assert code == 1
    assert f"{path}: 2 wrong lines are left out" in lines
    assert lines[-1].startswith("error: No user has the 3 events")
