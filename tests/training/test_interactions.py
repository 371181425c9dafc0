"""Reading a dataset folder, and the leave-one-out split."""

import gzip
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.errors import ConfigError, DataError, DatasetTooSmall
from training.interactions import Interactions, leave_one_out, read_dataset

Row = tuple[str, str, int]

ITEMS = '{"item_id": "a", "title": "Apple"}\n{"item_id": "b"}\n{"item_id": "c"}\n'
EVENTS = "user_id,item_id,timestamp\nu,a,1\nu,b,2\n"


def write_folder(folder: Path, events: str | bytes = EVENTS, items: str | bytes = ITEMS) -> Path:
    for name, content in (("interactions.csv", events), ("items.jsonl", items)):
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def write_rows(folder: Path, rows: Sequence[Row], items: str = ITEMS) -> Path:
    lines = [f"{user},{item},{seconds}\n" for user, item, seconds in rows]
    return write_folder(folder, "user_id,item_id,timestamp\n" + "".join(lines), items)


def sequences(data: Interactions) -> dict[str, list[str]]:
    return {
        user: [data.item_ids[i] for i in data.events[data.offsets[u] : data.offsets[u + 1]]]
        for u, user in enumerate(data.user_ids)
    }


def test_reads_users_items_and_events(tmp_path: Path) -> None:
    data = read_dataset(write_rows(tmp_path, [("u", "c", 30), ("v", "a", 5), ("u", "a", 10)]))

    assert data.user_ids == ["u", "v"]
    assert data.item_ids == ["a", "b", "c"]
    assert data.items[0] == {"item_id": "a", "title": "Apple"}
    assert data.offsets.tolist() == [0, 2, 3]
    assert data.events.tolist() == [0, 2, 0]
    assert data.timestamps.tolist() == [10, 30, 5]
    assert [array.dtype.name for array in (data.offsets, data.events, data.timestamps)] == ["int64", "int32", "int64"]


def test_reads_gzip_other_column_orders_quotes_and_extra_columns(tmp_path: Path) -> None:
    events = 'timestamp,rating,item_id,user_id\r\n7,5,a,"Doe, Jane"\r\n3.0,1,b,"Doe, Jane"\r\n'
    (tmp_path / "interactions.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + events.encode()))
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress(ITEMS.encode()))

    data = read_dataset(tmp_path)

    assert sequences(data) == {"Doe, Jane": ["b", "a"]}
    assert data.timestamps.tolist() == [3, 7]


def test_file_order_breaks_ties(tmp_path: Path) -> None:
    rows = [("u", item, 9) for item in "cabacb"] + [("u", "c", 1)]
    assert sequences(read_dataset(write_rows(tmp_path, rows)))["u"] == list("ccabacb")


def test_fractions_of_a_second_are_not_ties(tmp_path: Path) -> None:
    events = "user_id,item_id,timestamp\nu,a,1700000000.75\nu,b,1700000000.25\nu,c,1.7e9\n"
    data = read_dataset(write_folder(tmp_path, events))
    assert sequences(data)["u"] == ["c", "b", "a"]
    assert set(data.timestamps.tolist()) == {1_700_000_000}


def test_seconds_may_lie_anywhere_between_the_years_before_1970_and_9999(tmp_path: Path) -> None:
    rows = [("u", "b", 253_402_300_799), ("u", "a", -86_400), ("u", "c", 99_999_999_999)]
    data = read_dataset(write_rows(tmp_path, rows))
    assert sequences(data)["u"] == ["a", "c", "b"]
    assert data.timestamps.tolist() == [-86_400, 99_999_999_999, 253_402_300_799]


def test_unlisted_items_follow_the_listed_ones_and_one_warning_counts_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = read_dataset(write_rows(tmp_path, [("u", "z", 1), ("u", "a", 2), ("u", "y", 3), ("u", "z", 4)]))

    assert data.item_ids == ["a", "b", "c", "z", "y"]
    assert data.items[3:] == [{"item_id": "z"}, {"item_id": "y"}]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "2 items of the interactions are not in it and get no metadata"
    ]


@pytest.mark.parametrize(
    ("events", "line", "sentence"),
    [
        ("", 1, "must name the column user_id once"),
        ("user,item_id,timestamp\n", 1, "must name the column user_id once"),
        ("user_id,item_id,item_id,timestamp\n", 1, "must name the column item_id once"),
        (EVENTS + "u,a\n", 4, "has 2 columns where the header has 3"),
        (EVENTS + "u,a,1,2\n", 4, "has 4 columns where the header has 3"),
        (EVENTS + "\n", 4, "has 0 columns where the header has 3"),
        (EVENTS + ",a,1\n", 4, "user_id is empty"),
        (EVENTS + "u, ,1\n", 4, "item_id is empty"),
        (EVENTS + "u,a,\n", 4, "'' is not a finite number"),
        (EVENTS + "u,a,yesterday\n", 4, "'yesterday' is not a finite number"),
        (EVENTS + "u,a,nan\n", 4, "'nan' is not a finite number"),
        (EVENTS + "u,a,-inf\n", 4, "'-inf' is not a finite number"),
        (EVENTS + "u,a,1_000\n", 4, "'1_000' is not a finite number"),
        (EVENTS + "u,a,٣\n", 4, "'٣' is not a finite number"),
        (EVENTS + f"u,a,{'9' * 100_000}x\n", 4, f"'{'9' * 64}…' is not a finite number"),
        (EVENTS + "u,a,1e999\n", 4, "too large to be seconds"),
        (EVENTS + "u,a,20240131235959\n", 4, "The timestamp '20240131235959' is too large to be seconds."),
        (EVENTS + "u,a,253402300800\n", 4, "'253402300800' looks like milliseconds and is too large to be seconds."),
        (EVENTS + "u,a,-1700000000000\n", 4, "'-1700000000000' looks like milliseconds and is too large"),
        (EVENTS + "u,a,1700000000000.5\n", 4, "'1700000000000.5' looks like milliseconds and is too large"),
        (EVENTS + "u,a,1700000000000000\n", 4, "'1700000000000000' looks like microseconds and is too large"),
        (EVENTS + "u,a,1700000000000000000\n", 4, "'1700000000000000000' looks like nanoseconds and is too large"),
        (EVENTS + 'u,"a\nu,b",1\n', 4, "holds a line break"),
        ('user_id,item_id,timestamp,note\nu,a,1,"x\ny"\nu,b\n', 4, "has 2 columns where the header has 4"),
        (EVENTS + 'u,"a,1\nu,b,2\n', 4, "not valid CSV"),
        (EVENTS.encode() + b"u,\xff,1\n", 4, "Byte 3 of this line is not valid utf-8"),
    ],
)
def test_a_wrong_event_names_file_and_line(tmp_path: Path, events: str | bytes, line: int, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        read_dataset(write_folder(tmp_path, events))
    assert str(caught.value).startswith(f"{tmp_path / 'interactions.csv'}:{line}: ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "no item_id that is a string"),
        ('{"item_id": 7}', "no item_id that is a string"),
        ('{"item_id": " "}', "item_id is empty"),
        ('{"item_id": "b"}', "'b' was already given in line 2"),
        ('{"item_id": "x", "price": NaN}', "NaN is not a JSON number"),
        ('{"item_id": "\\ud800"}', "not valid Unicode"),
        ("[" * 100_000, "nested too deeply"),
        (b'{"item_id": "\xe9"}', "is not valid utf-8"),
    ],
)
def test_a_wrong_item_names_file_and_line(tmp_path: Path, wrong: str | bytes, sentence: str) -> None:
    content = ITEMS.encode() + (wrong.encode() if isinstance(wrong, str) else wrong) + b"\n"
    with pytest.raises(DataError) as caught:
        read_dataset(write_folder(tmp_path, items=content))
    assert str(caught.value).startswith(f"{tmp_path / 'items.jsonl'}:4: ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-20], lambda packed: packed[:40] + b"\0" * 40 + packed[80:]])
def test_damaged_gzip_names_file_and_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    events = EVENTS + "".join(f"user{i * 7919 % 5003},a,{i * i}\n" for i in range(5000))
    write_folder(tmp_path, items=ITEMS)
    (tmp_path / "interactions.csv").write_bytes(damage(gzip.compress(events.encode())))
    with pytest.raises(DataError, match=r"interactions\.csv:\d+: The compressed data is cut short or damaged here\.$"):
        read_dataset(tmp_path)


def test_a_missing_or_ambiguous_file_is_a_config_error(tmp_path: Path) -> None:
    both = (
        r"holds neither items\.jsonl nor items\.jsonl\.gz, and neither interactions\.csv nor interactions\.csv\.gz\.$"
    )
    with pytest.raises(ConfigError, match=both):
        read_dataset(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "items.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"holds neither items\.jsonl nor items\.jsonl\.gz\.$"):
        read_dataset(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress(ITEMS.encode()))
    with pytest.raises(ConfigError, match=r"holds both items\.jsonl and items\.jsonl\.gz"):
        read_dataset(tmp_path)


def test_tie_seed_shuffles_only_ties_and_repeats_itself(tmp_path: Path) -> None:
    names = [f"i{n:02d}" for n in range(40)]
    rows = [("u", "a", 1), *(("u", name, 5) for name in names), ("u", "b", 9)]
    folder = write_rows(tmp_path, rows)

    shuffled = sequences(read_dataset(folder, tie_seed=0))["u"]

    assert (shuffled[0], shuffled[-1]) == ("a", "b")
    assert sorted(shuffled[1:-1]) == names != shuffled[1:-1]
    assert sequences(read_dataset(folder, tie_seed=0))["u"] == shuffled
    assert sequences(read_dataset(folder, tie_seed=1))["u"] != shuffled


def test_tie_seed_ignores_file_order_and_other_users(tmp_path: Path) -> None:
    rows = [("u", f"i{n}", 5) for n in range(30)]
    expected = sequences(read_dataset(write_rows(tmp_path, rows), tie_seed=3))["u"]
    others = [("v", f"j{n}", 5) for n in range(30)]
    assert sequences(read_dataset(write_rows(tmp_path, others + rows[::-1]), tie_seed=3))["u"] == expected


def test_tie_seed_gives_every_order_about_equally_often(tmp_path: Path) -> None:
    rows = [(f"u{n}", item, 5) for n in range(3000) for item in ("a", "b", "c")]
    orders = Counter(map("".join, sequences(read_dataset(write_rows(tmp_path, rows), tie_seed=0)).values()))
    assert len(orders) == 6
    assert all(400 < times < 600 for times in orders.values())  # within five standard deviations of 500


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcdz"), st.integers(-3, 3))))
def test_reading_equals_a_plain_python_reading(rows: list[Row]) -> None:
    expected: dict[str, list[Row]] = {}
    for row in rows:
        expected.setdefault(row[0], []).append(row)
    with tempfile.TemporaryDirectory() as folder:
        data = read_dataset(write_rows(Path(folder), rows))
    assert sequences(data) == {
        user: [item for _, item, _ in sorted(own, key=lambda row: row[2])] for user, own in expected.items()
    }


def interactions_of(histories: dict[str, str]) -> Interactions:
    """Each letter is an item; time is the place in the history."""
    item_ids = sorted(set("".join(histories.values())))
    lengths = [len(history) for history in histories.values()]
    return Interactions(
        user_ids=list(histories),
        item_ids=item_ids,
        items=[{"item_id": item_id} for item_id in item_ids],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        events=np.array([item_ids.index(letter) for letter in "".join(histories.values())], dtype=np.int32),
        timestamps=np.concatenate([np.arange(length) for length in lengths]).astype(np.int64),
    )


def test_split_holds_out_the_last_two_events_of_users_with_three() -> None:
    data = interactions_of({"long": "abcde", "short": "ab", "three": "cba", "one": "d"})
    split = leave_one_out(data)

    def letters(items: NDArray[np.int32]) -> str:
        return "".join(data.item_ids[i] for i in items)

    bounds = zip(split.train.offsets[:-1], split.train.offsets[1:], strict=True)
    assert [letters(split.train.items[start:stop]) for start, stop in bounds] == ["abc", "ab", "c", "d"]
    assert split.valid.user.tolist() == split.test.user.tolist() == [0, 2]
    assert (letters(split.valid.target), letters(split.test.target)) == ("db", "ea")
    assert [letters(split.valid.history(row)) for row in range(len(split.valid))] == ["abc", "c"]
    assert [letters(split.test.history(row)) for row in range(len(split.test))] == ["abcd", "cb"]
    assert [letters(split.test.history(0, limit)) for limit in (0, 1, 3, 9)] == ["", "d", "bcd", "abcd"]
    assert letters(split.test.history(1, 9)) == "cb"  # never reaches into the events of the user before
    assert {a.dtype.name for a in (split.train.items, split.test.target, split.test.history(0))} == {"int32"}


def test_counts_are_of_training_events_only() -> None:
    split = leave_one_out(interactions_of({"u": "aabcd", "v": "ba"}))
    assert split.train.counts(4).tolist() == [3, 2, 0, 0]
    assert split.train.counts(4).dtype == np.int64


def test_an_items_only_event_being_its_users_only_one_teaches_nothing() -> None:
    """The split leaves u with "ab", v with its "c" alone, w with "d"; e was never seen in training."""
    split = leave_one_out(interactions_of({"u": "abab", "v": "c", "w": "dae"}))
    assert split.train.counts(5).tolist() == [1, 1, 1, 1, 0]
    assert split.train.trained(5).tolist() == [True, True, False, False, False]


def test_repeated_events_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    read_dataset(write_folder(tmp_path / "once"))
    assert not caplog.records
    rows = [("u", "a", "1"), ("u", "b", "1"), ("u", "a", "1"), ("v", "a", "1"), ("u", "b", "2"), ("u", "a", "1")]
    lines = "".join(",".join(row) + "\n" for row in rows)
    read = read_dataset(write_folder(tmp_path / "twice", "user_id,item_id,timestamp\n" + lines))
    assert "2 events repeat another's user, item and time" in caplog.text
    assert len(read.events) == len(rows)


@settings(max_examples=100, deadline=None)
@given(histories=st.lists(st.text("abcde", min_size=1, max_size=8), min_size=1, max_size=8))
def test_history_and_target_rebuild_every_users_events(histories: list[str]) -> None:
    data = interactions_of({f"u{n}": history for n, history in enumerate(["abcd", *histories])})
    split = leave_one_out(data)
    assert split.test.user.tolist() == [u for u, history in enumerate(["abcd", *histories]) if len(history) >= 3]
    for row, user in enumerate(split.test.user):
        events = data.events[data.offsets[user] : data.offsets[user + 1]].tolist()
        train = split.train.items[split.train.offsets[user] : split.train.offsets[user + 1]].tolist()
        assert [*split.test.history(row), split.test.target[row]] == events
        assert [*split.valid.history(row), split.valid.target[row], split.test.target[row]] == events
        assert train == split.valid.history(row).tolist()


@pytest.mark.parametrize(
    ("histories", "sentence"),
    [
        ({"u": "aaaa"}, "At least 2 items are needed, but the dataset has 1 users, 1 items and 4 events"),
        ({"u": "ab", "v": "ba"}, "No user has the 3 events"),
        ({"u": "abc", "v": "b"}, "No user has 2 events to train on"),
    ],
)
def test_split_refuses_too_small_datasets(histories: dict[str, str], sentence: str) -> None:
    with pytest.raises(DatasetTooSmall, match=sentence):
        leave_one_out(interactions_of(histories))


def test_an_empty_dataset_is_read_but_not_split(tmp_path: Path) -> None:
    data = read_dataset(write_folder(tmp_path, "user_id,item_id,timestamp\n"), tie_seed=0)
    assert (data.user_ids, len(data.events), data.offsets.tolist()) == ([], 0, [0])
    with pytest.raises(DatasetTooSmall):
        leave_one_out(data)


def test_fingerprint_follows_training_events_and_nothing_else(tmp_path: Path) -> None:
    def fingerprint(history: str, catalog: str = "abcdef") -> str:
        items = "".join(json.dumps({"item_id": item}) + "\n" for item in catalog)
        rows = [("u", item, seconds) for seconds, item in enumerate(history)]
        return leave_one_out(read_dataset(write_rows(tmp_path, rows, items))).fingerprint()

    expected = fingerprint("abcd")
    assert len(expected) == 64
    assert fingerprint("abef") == expected
    assert fingerprint("abcd", catalog="zabcdef") == expected
    assert fingerprint("bacd") != expected
    assert fingerprint("abccd") != expected
    assert fingerprint("aecd") != expected
