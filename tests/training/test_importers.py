"""Public formats → dataset folder, from tiny sources written by hand."""

import gzip
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.synced import synced_before_renamed
from training.__main__ import app
from training.errors import ConfigError, DataError, DatasetTooSmall
from training.importers import (
    ImportCounts,
    fetch_movielens,
    find_amazon_files,
    import_amazon,
    import_movielens,
    import_recbole,
)
from training.importers.core_filter import first_of_pairs, k_core, select_core
from training.importers.dataset_folder import write_dataset
from training.interactions import EventLog, read_dataset

Pair = tuple[int, int]
DATASET_FILES = ["interactions.csv.gz", "items.jsonl.gz"]


def histories(folder: Path) -> dict[str, list[str]]:
    data = read_dataset(folder)
    return {
        user: [data.item_ids[i] for i in data.events[data.offsets[u] : data.offsets[u + 1]]]
        for u, user in enumerate(data.user_ids)
    }


def items(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["item_id"]: record for record in read_dataset(folder).items}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_lines(path: Path, lines: Iterable[str], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    return path


# --- the core filter


def slow_core(pairs: list[Pair], minimum: int) -> list[int]:
    """Drops one offending event after the other."""
    rows = list(range(len(pairs)))
    while True:
        users, things = Counter(pairs[r][0] for r in rows), Counter(pairs[r][1] for r in rows)
        offending = [r for r in rows if min(users[pairs[r][0]], things[pairs[r][1]]) < minimum]
        if not offending:
            return rows
        rows.remove(offending[0])


def columns(pairs: list[Pair]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    table = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60), minimum=st.integers(0, 5))
def test_k_core_equals_dropping_events_one_by_one(pairs: list[Pair], minimum: int) -> None:
    assert k_core(*columns(pairs), minimum).tolist() == slow_core(pairs, minimum)


def test_k_core_takes_more_than_one_pass() -> None:
    chain = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]  # its ends have one event each, and it unravels
    square = [(7, 7), (7, 8), (8, 7), (8, 8)]
    assert k_core(*columns(chain + square), 2).tolist() == [6, 7, 8, 9]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), max_size=40))
def test_first_of_pairs_keeps_the_oldest_event_and_the_file_order_breaks_ties(
    events: list[tuple[int, int, int]],
) -> None:
    first: dict[Pair, int] = {}
    for row, (user, item, time) in enumerate(events):
        kept = first.setdefault((user, item), row)
        if time < events[kept][2]:
            first[user, item] = row
    users, things = columns([(user, item) for user, item, _ in events])
    time_us = np.array([time for _, _, time in events], dtype=np.int64)
    assert first_of_pairs(users, things, time_us).tolist() == sorted(first.values())


# --- the folder that is written


def small_log() -> EventLog:
    log = EventLog()
    for user, item, time_us in [("u", "b", 2_000_000), ('"v", 1', "a", 1_500_000), ("u", "ä", -1_250_000)]:
        log.add(user, item, time_us)
    return log


def write_small(out: Path, *, force: bool = False) -> ImportCounts:
    return write_dataset(out, select_core(small_log(), 1), [{"item_id": "a", "title": "Ä"}], force=force)


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "new" / "data"
    assert write_small(out) == ImportCounts(users=2, items=3, interactions=3, dropped=0)
    assert gzip.decompress((out / DATASET_FILES[0]).read_bytes()).decode().splitlines() == [
        "user_id,item_id,timestamp",
        "u,ä,-1.250000",
        "u,b,2",
        '"""v"", 1",a,1.500000',
    ]
    assert histories(out) == {"u": ["ä", "b"], '"v", 1': ["a"]}
    assert read_dataset(out).timestamps.tolist() == [-2, 2, 1]
    assert items(out) == {"a": {"item_id": "a", "title": "Ä"}, "b": {"item_id": "b"}, "ä": {"item_id": "ä"}}
    assert names(out) == DATASET_FILES
    assert names(out.parent) == ["data"]


IDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1).filter(lambda text: text.strip())


@settings(deadline=None)
@given(st.lists(st.tuples(IDS, IDS, st.integers(-(10**15), 10**15)), min_size=1))
def test_any_ids_and_times_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str, int]]
) -> None:
    out = tmp_path_factory.mktemp("round") / "data"
    log = EventLog()
    for event in events:
        log.add(*event)
    write_dataset(out, select_core(log, 1), [])
    expected: dict[str, list[str]] = {user: [] for user, _, _ in events}
    for user, item, _ in sorted(events, key=lambda event: event[2]):
        expected[user].append(item)
    assert histories(out) == expected


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    write_small(tmp_path / "one")
    write_small(tmp_path / "two")
    for name in DATASET_FILES:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert content[4:8] == bytes(4), "the gzip header holds a time"


def test_a_dataset_is_on_the_disk_before_its_folder_gets_its_name(tmp_path: Path) -> None:
    out = tmp_path / "data"
    for force in (False, True):
        synced = synced_before_renamed(partial(write_small, out, force=force))
        assert sorted(name.partition("-")[0] for name in synced) == [".data.new", *DATASET_FILES]


def test_a_folder_is_replaced_only_by_force_and_only_if_it_is_a_dataset(tmp_path: Path) -> None:
    out = tmp_path / "data"
    out.mkdir()
    write_small(out)
    with pytest.raises(ConfigError, match="is not empty"):
        write_small(out)
    (out / DATASET_FILES[0]).write_bytes(b"old")
    write_small(out, force=True)
    assert histories(out)["u"] == ["ä", "b"]

    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.txt, which is no part of a dataset"):
        write_small(out, force=True)
    with pytest.raises(ConfigError, match="is not a folder"):
        write_small(out / "thesis.txt", force=True)
    assert (out / "thesis.txt").read_text() == "years of work"
    assert names(tmp_path) == ["data"]


def test_a_failure_leaves_the_former_dataset_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "data"
    write_small(out)
    before = (out / DATASET_FILES[1]).read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_dataset(out, select_core(small_log(), 1), [{"item_id": "a", "price": float("nan")}], force=True)
    assert (out / DATASET_FILES[1]).read_bytes() == before
    assert names(tmp_path) == ["data"]


def test_an_empty_core_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetTooSmall, match="all 3 of the source fall outside the core"):
        write_dataset(tmp_path / "data", select_core(small_log(), 2), [])
    assert names(tmp_path) == []


# --- MovieLens


def write_100k(folder: Path) -> Path:
    write_lines(folder / "u.data", ["1\t1\t5\t30", "1\t2\t1\t20", "2\t2\t3\t10", "2\t1\t4\t40", "3\t3\t4\t9"])
    write_lines(folder / "u.genre", ["unknown|0", "Comedy|1", "Drama|2", ""])
    movies = [
        "1|Café au lait (1994)|01-Jan-1994||http://x|0|1|1",
        "2|Usual Suspects, The (1995) (V)|||http://x|1|0|0",
        "3|unknown||||1|0|0",
    ]
    write_lines(folder / "u.item", movies, "latin-1")
    return folder


def test_movielens_100k(tmp_path: Path) -> None:
    counts = import_movielens(write_100k(tmp_path / "src"), tmp_path / "out", min_core=2)
    assert counts == ImportCounts(users=2, items=2, interactions=4, dropped=1)
    assert histories(tmp_path / "out") == {"1": ["2", "1"], "2": ["2", "1"]}
    assert items(tmp_path / "out") == {
        "1": {"item_id": "1", "title": "Café au lait", "year": 1994, "genres": ["Comedy", "Drama"]},
        "2": {"item_id": "2", "title": "Usual Suspects, The", "year": 1995, "genres": []},
    }


def test_movielens_title_without_a_year(tmp_path: Path) -> None:
    import_movielens(write_100k(tmp_path / "src"), tmp_path / "out", min_core=1)
    assert items(tmp_path / "out")["3"] == {"item_id": "3", "title": "unknown", "genres": []}


def test_movielens_zip_equals_its_folder(tmp_path: Path) -> None:
    write_100k(tmp_path / "src")
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for path in (tmp_path / "src").iterdir():
            archive.write(path, f"ml-100k/{path.name}", zipfile.ZIP_DEFLATED)
    import_movielens(tmp_path / "ml.zip", tmp_path / "zipped", min_core=2)
    import_movielens(tmp_path / "src", tmp_path / "plain", min_core=2)
    for name in DATASET_FILES:
        assert (tmp_path / "zipped" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_movielens_1m_in_a_folder_below(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "ml-1m"
    write_lines(folder / "ratings.dat", ["1::10::5::200", "1::20::3::100"])
    write_lines(folder / "movies.dat", ["10::Amélie (2001)::Comedy|Romance", "20::M (1931)::Film-Noir"], "latin-1")
    assert import_movielens(tmp_path / "src", tmp_path / "out", min_core=1).interactions == 2
    assert histories(tmp_path / "out") == {"1": ["20", "10"]}
    assert items(tmp_path / "out")["10"]["genres"] == ["Comedy", "Romance"]
    assert items(tmp_path / "out")["10"]["title"] == "Amélie"


@pytest.mark.parametrize(
    ("name", "row", "sentence"),
    [
        ("u.data", "1\t2\t3", "has 3 fields instead of 4"),
        ("u.data", "1\t2\t3\tnoon", "'noon' is not a finite number"),
        ("u.data", "\t2\t3\t4", "user_id is empty"),
        ("u.item", "|Heat (1995)|1|0", "has 4 fields instead of 8"),
    ],
)
def test_a_wrong_movielens_row_names_file_and_line(tmp_path: Path, name: str, row: str, sentence: str) -> None:
    path = write_100k(tmp_path / "src") / name
    with (tmp_path / "src" / "u.data").open("a") as ratings:
        ratings.write("3\t4\t4\t10\n")  # of a film that has no line yet
    line = path.read_bytes().count(b"\n") + 1
    path.write_bytes(path.read_bytes() + row.encode() + b"\n")
    with pytest.raises(DataError, match=sentence) as caught:
        import_movielens(tmp_path / "src", tmp_path / "out", min_core=1)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert names(tmp_path) == ["src"]


def test_no_movielens_at_the_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"neither u\.data nor ratings\.dat"):
        import_movielens(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ConfigError, match="no file or folder"):
        import_movielens(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ConfigError, match="neither a folder nor a zip file"):
        import_movielens(write_lines(tmp_path / "text", ["no zip"]), tmp_path / "out")
    (write_100k(tmp_path / "src") / "u.genre").unlink()
    with pytest.raises(ConfigError, match=r"u\.genre is missing"):
        import_movielens(tmp_path / "src", tmp_path / "out")


# --- RecBole


def write_recbole(folder: Path) -> Path:
    inter = ["item_id:token\tuser_id:token\trating:float\ttimestamp:float", "x\t1\t3\t20.5", "y\t1\t4\t20.25"]
    item = [
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\tsize:float_seq\tnote:token",
        "x\tToy Story\t1995\tAnimation Comedy\t9.5\t1 2.5\t",
        "y\tUnkonwn\tV\tunknown\t\t\tunknown",
    ]
    write_lines(folder / "ml.inter", inter)
    write_lines(folder / "ml.item", item)
    return folder


def test_recbole(tmp_path: Path) -> None:
    counts = import_recbole(write_recbole(tmp_path / "src"), tmp_path / "out", min_core=1)
    assert counts == ImportCounts(users=1, items=2, interactions=2, dropped=0)
    assert histories(tmp_path / "out") == {"1": ["y", "x"]}
    assert items(tmp_path / "out") == {
        "x": {
            "item_id": "x",
            "title": "Toy Story",
            "year": 1995,
            "genres": ["Animation", "Comedy"],
            "price": 9.5,
            "size": [1, 2.5],
        },
        "y": {"item_id": "y", "title": "Unkonwn", "genres": [], "size": [], "note": "unknown"},
    }


def test_recbole_keeps_repeated_events_and_needs_no_item_file(tmp_path: Path) -> None:
    rows = ["user_id:token\titem_id:token\ttimestamp:float", "1\tx\t1", "1\ty\t2", "1\tx\t3"]
    write_lines(tmp_path / "src" / "log.inter", rows)
    assert import_recbole(tmp_path / "src", tmp_path / "out", min_core=1).dropped == 0
    assert histories(tmp_path / "out") == {"1": ["x", "y", "x"]}
    assert items(tmp_path / "out")["x"] == {"item_id": "x"}


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "sentence"),
    [
        ("ml.inter", "timestamp:float", "time:float", 1, "must name the field timestamp once"),
        ("ml.inter", "rating:float", "rating", 1, "'rating' is not a field and one of"),
        ("ml.inter", "y\t1\t4", "y\t1", 3, "has 3 fields instead of 4"),
        ("ml.inter", "20.25", "late", 3, "'late' is not a finite number"),
        ("ml.inter", "20.", "1700000000000.", 2, "milliseconds and is too large to be seconds, as are those of 1 more"),
        ("ml.item", "9.5", "nan", 2, "'nan' is not a finite number"),
        ("ml.item", "9.5", "cheap", 2, "'cheap' is not a finite number"),
    ],
)
def test_a_wrong_recbole_row_names_file_and_line(
    tmp_path: Path, name: str, old: str, new: str, line: int, sentence: str
) -> None:
    path = write_recbole(tmp_path / "src") / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=sentence) as caught:
        import_recbole(tmp_path / "src", tmp_path / "out", min_core=1)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_recbole_wants_exactly_one_inter_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="but 0 were found"):
        import_recbole(tmp_path / "absent", tmp_path / "out")
    write_lines(write_recbole(tmp_path / "src") / "more.inter", [])
    with pytest.raises(ConfigError, match="but 2 were found"):
        import_recbole(tmp_path / "src", tmp_path / "out")


# --- Amazon


def write_amazon(folder: Path, reviews: list[str], metadata: list[str]) -> Path:
    write_lines(folder / "reviews.json", reviews)
    (folder / "meta.json.gz").write_bytes(gzip.compress("".join(line + "\n" for line in metadata).encode()))
    write_lines(folder / "README.txt", ["Please cite."])
    return folder


def import_folder(src: Path, out: Path, min_core: int = 1) -> ImportCounts:
    return import_amazon(*find_amazon_files(src), out, min_core)


def review_2014(user: str, asin: str, seconds: int) -> str:
    return json.dumps({"reviewerID": user, "asin": asin, "overall": 5.0, "unixReviewTime": seconds})


def test_amazon_2014_with_python_literals(tmp_path: Path) -> None:
    metadata = [
        "{'asin': 'B1', 'title': \"Men's &amp; Boys' Hat\", 'price': 12.5, 'imUrl': 'http://x', 'brand': 'Acme', "
        "'categories': [['Clothing', 'Hats'], ['Men']], 'description': 'Warm.'}",
        "{'asin': 'B2', 'title': u'Caf\\xe9', 'brand': ''}",
    ]
    reviews = [review_2014("U1", "B1", 200), review_2014("U1", "B2", 100)]
    import_folder(write_amazon(tmp_path / "src", reviews, metadata), tmp_path / "out")

    assert histories(tmp_path / "out") == {"U1": ["B2", "B1"]}
    assert items(tmp_path / "out") == {
        "B1": {
            "item_id": "B1",
            "title": "Men's & Boys' Hat",
            "brand": "Acme",
            "categories": [["Clothing", "Hats"], ["Men"]],
            "price": 12.5,
            "description": "Warm.",
        },
        "B2": {"item_id": "B2", "title": "Café"},
    }


def test_amazon_2018(tmp_path: Path) -> None:
    first = {
        "asin": "B1",
        "title": "Hat",
        "brand": "Acme",
        "category": ["Clothing", "Hats &amp; Caps"],
        "price": "$1,012.50",
        "description": ["Warm.", "", "Soft."],
    }
    second = {
        "asin": "B2",
        "title": "var aPageStart = (new Date()).getTime();",
        "price": "$1.00 - $2.00",
        "category": [],
    }
    third = {"asin": "B3", "price": 10**400}  # beyond all floats
    metadata = [json.dumps(record) for record in (first, second, third, first | {"title": "Hat, given twice"})]
    reviews = [review_2014("U1", "B1", 100), review_2014("U1", "B2", 200), review_2014("U1", "B3", 300)]
    import_folder(write_amazon(tmp_path / "src", reviews, metadata), tmp_path / "out")

    assert items(tmp_path / "out") == {
        "B1": {
            "item_id": "B1",
            "title": "Hat",
            "brand": "Acme",
            "categories": [["Clothing", "Hats & Caps"]],
            "price": 1012.5,
            "description": "Warm. Soft.",
        },
        "B2": {"item_id": "B2"},
        "B3": {"item_id": "B3"},
    }


def test_amazon_2023_counts_milliseconds_and_prefers_the_parent(tmp_path: Path) -> None:
    def review(time_ms: int, **ids: str) -> str:
        return json.dumps({"user_id": "U1", "timestamp": time_ms, **ids})

    metadata = [
        json.dumps({"parent_asin": "P1", "title": "Hat", "store": "Acme", "categories": ["A", "B"], "price": None})
    ]
    reviews = [
        review(1_588_615_855_070, asin="B1", parent_asin="P1"),
        review(1_588_615_855_069, asin="B2"),
    ]
    import_folder(write_amazon(tmp_path / "src", reviews, metadata), tmp_path / "out")

    assert histories(tmp_path / "out") == {"U1": ["B2", "P1"]}
    assert read_dataset(tmp_path / "out").timestamps.tolist() == [1_588_615_855] * 2
    assert items(tmp_path / "out")["P1"] == {
        "item_id": "P1",
        "title": "Hat",
        "brand": "Acme",
        "categories": [["A", "B"]],
    }


def test_amazon_drops_repeats_before_the_core_and_says_how_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    square = [review_2014(user, asin, 50) for user in ("U1", "U2") for asin in ("B1", "B2")]
    repeats = [review_2014("U1", "B2", 40), review_2014("U3", "B1", 1), review_2014("U3", "B1", 2)]
    src = write_amazon(tmp_path / "src", square + repeats, [json.dumps({"asin": "B1"}), json.dumps({"asin": "B9"})])
    with caplog.at_level(logging.INFO):
        counts = import_folder(src, tmp_path / "out", min_core=2)

    assert counts == ImportCounts(users=2, items=2, interactions=4, dropped=3)
    assert "2 repeats of a user and item pair were dropped" in caplog.text
    assert histories(tmp_path / "out")["U1"] == ["B2", "B1"]
    assert list(items(tmp_path / "out")) == ["B1", "B2"]


@pytest.mark.parametrize(
    ("name", "row", "sentence"),
    [
        ("reviews.json", "{'asin': ", "neither a JSON object nor a Python dict literal"),
        ("reviews.json", "", "neither a JSON object nor a Python dict literal"),
        ("reviews.json", '["U1"]', "neither a JSON object nor a Python dict literal"),
        ("reviews.json", "__import__('os')", "neither a JSON object nor a Python dict literal"),
        ("reviews.json", '{"reviewerID": "U1", "unixReviewTime": 1}', "no text in asin"),
        ("reviews.json", '{"reviewerID": "U1", "asin": "B1"}', "no unixReviewTime"),
        ("reviews.json", '{"user_id": "U1", "asin": "B1", "timestamp": "noon"}', "'noon' is not a finite number"),
        ("reviews.json", '{"user_id": "U1", "asin": "B1", "timestamp": 17e14}', "and is too large to be milliseconds"),
        ("meta.json", '{"title": "Hat"}', "no text in parent_asin or asin"),
    ],
)
def test_a_wrong_amazon_line_names_file_and_line(tmp_path: Path, name: str, row: str, sentence: str) -> None:
    sources = {"reviews.json": [review_2014("U1", "B1", 1)], "meta.json": ['{"asin": "B2"}']}
    sources[name].append(row)
    reviews, metadata = (write_lines(tmp_path / "src" / file, lines) for file, lines in sources.items())
    with pytest.raises(DataError, match=sentence) as caught:
        import_amazon(reviews, metadata, tmp_path / "out", min_core=1)
    assert str(caught.value).startswith(f"{tmp_path / 'src' / name}:2: ")
    assert names(tmp_path) == ["src"]


def test_wrong_reviews_are_told_together_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["{", review_2014("U1", "B1", 1), "[]", review_2014("", "B1", 1), review_2014("U1", " ", 2)]
    reviews = write_lines(tmp_path / "src" / "reviews.json", rows)
    metadata = write_lines(tmp_path / "src" / "meta.json", ['{"asin": "B1"}'])
    with pytest.raises(DataError) as caught:
        import_amazon(reviews, metadata, tmp_path / "out", min_core=1, skip_wrong_rows=3)
    *named, limit = str(caught.value).split("\n")
    assert [row.split(":")[1] for row in named] == ["1", "3", "4", "5"]
    assert limit == f"{reviews}: 4 lines are wrong, and at most 3 may be left out."
    assert names(tmp_path) == ["src"]

    counts = import_amazon(reviews, metadata, tmp_path / "out", min_core=1, skip_wrong_rows=4)

    assert counts == ImportCounts(users=1, items=1, interactions=1, dropped=0)
    assert caplog.messages[-1] == f"{reviews}: 4 wrong lines are left out"


def square_of(asins: str) -> list[str]:
    """Two users with each of the items, and a third with an item that no core of two holds."""
    return [review_2014(user, asin, 1) for user in ("U1", "U2") for asin in asins] + [review_2014("U3", "Z", 1)]


CUT_OFF = '{"asin": "%s", "title": "Ha'


@pytest.mark.parametrize(
    ("metadata", "harmless"),
    [
        (['{"asin": "A"}', CUT_OFF % "Z", CUT_OFF % "Y"], 2),  # though nothing is said of B
        (["{'asin': u'Z', 'title': ", '{"asin": "A"}', CUT_OFF % "A"], 2),
        (['{"title": "Hat"}', '{"asin": "A"}', '{"asin": "B"}', "{"], 2),  # whose they are does not matter
        ([CUT_OFF % "B", '{"asin": "A"}', '{"asin": "B"}'], 1),
    ],
)
def test_wrong_metadata_that_no_item_of_the_core_lacks_do_not_matter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metadata: list[str], harmless: int
) -> None:
    src = write_amazon(tmp_path / "src", square_of("AB"), ['{"asin": "X"}', *metadata])
    assert import_folder(src, tmp_path / "out", min_core=2).items == 2
    told = [message for message in caplog.messages if "do not matter" in message]
    assert told == [f"{src / 'meta.json.gz'}: {harmless} wrong rows do not matter: no item of the dataset lacks them"]
    assert "left out" not in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [CUT_OFF % "B", '{"title": "Hat"}', '{"title": "asin: Z"}', '{"asin": "Z", "asin": "Y", ', "{'asin': 'Z\\u0042', "],
)
def test_wrong_metadata_that_an_item_of_the_core_may_lack_are_refused(tmp_path: Path, wrong: str) -> None:
    write_amazon(tmp_path / "src", square_of("AB"), ['{"asin": "A"}', CUT_OFF % "Z", wrong])
    reviews, metadata = find_amazon_files(tmp_path / "src")
    write_small(tmp_path / "out")
    before = histories(tmp_path / "out")
    with pytest.raises(DataError) as caught:
        import_amazon(reviews, metadata, tmp_path / "out", min_core=2, force=True)
    assert str(caught.value).startswith(f"{metadata}:3: The ")
    assert "\n" not in str(caught.value)
    assert histories(tmp_path / "out") == before
    import_amazon(reviews, metadata, tmp_path / "out", min_core=2, skip_wrong_rows=1, force=True)
    assert list(items(tmp_path / "out")) == ["A", "B"]


def test_halves_of_surrogate_pairs_do_not_reach_the_dataset(tmp_path: Path) -> None:
    """JSON may hold them, escaped; no file and no id may."""
    metadata = ['{"asin": "B1", "title": "cut \\ud83d", "brand": "\\ud83d\\ude00"}']
    import_folder(write_amazon(tmp_path / "src", [review_2014("U1", "B1", 1)], metadata), tmp_path / "out")
    assert items(tmp_path / "out") == {"B1": {"item_id": "B1", "title": "cut ?", "brand": "\U0001f600"}}
    bad = write_amazon(tmp_path / "bad", [review_2014("U1", "B1", 1), review_2014("U\ud83d", "B1", 1)], metadata)
    with pytest.raises(DataError, match=r"reviews\.json:2: The reviewerID is not valid Unicode"):
        import_folder(bad, tmp_path / "other")


def test_amazon_files_must_be_unambiguous(tmp_path: Path) -> None:
    src = write_amazon(tmp_path / "src", [review_2014("U1", "B1", 1)], ['{"asin": "B1"}'])
    (src / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (src / "reviews.json").write_text("{\n" + (src / "reviews.json").read_text())  # which tells nothing
    assert find_amazon_files(src) == (src / "reviews.json", src / "meta.json.gz")
    write_lines(src / "more.json", [review_2014("U1", "B1", 1)])
    with pytest.raises(ConfigError, match="but 2 and 1 were found"):
        find_amazon_files(src)


# --- wrong rows on the command line


@pytest.mark.parametrize(
    ("kind", "write", "events", "metadata"),
    [
        ("movielens", write_100k, ("u.data", "1\t7\t5\t9\n1\t2\t3\n"), ("u.item", "9|unknown|\n")),
        ("recbole", write_recbole, ("ml.inter", "w\t1\t3\t9\ny\t1\n"), ("ml.item", "z\tZ\t1995\tDrama\tcheap\t\t\n")),
    ],
)
def test_every_importer_leaves_wrong_rows_out(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    write: Callable[[Path], Path],
    events: tuple[str, str],
    metadata: tuple[str, str],
) -> None:
    """Rows that are no events, an item of which nothing is told, and a wrong row about one that has no events."""
    src = write(tmp_path / "src")
    for name, rows in (events, events, metadata):
        with (src / name).open("a") as stream:
            stream.write(rows)
    words = ["import", kind, str(src), str(tmp_path / "out"), "--min-core", "1"]
    refused = CliRunner().invoke(app, [*words, "--skip-wrong-rows", "1"])
    assert isinstance(refused.exception, DataError)
    assert str(refused.exception).endswith(f"{src / events[0]}: 2 lines are wrong, and at most 1 may be left out.")
    assert not (tmp_path / "out").exists()

    assert CliRunner().invoke(app, [*words, "--skip-wrong-rows", "2"]).exit_code == 0

    assert f"{src / events[0]}: 2 wrong lines are left out" in caplog.messages
    assert f"{src / metadata[0]}: 1 wrong rows do not matter: no item of the dataset lacks them" in caplog.messages


# --- fetching, as far as it goes without a network


def test_fetch_leaves_a_complete_dataset_alone_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_small(tmp_path / "data")
    with caplog.at_level(logging.INFO):
        counts = fetch_movielens(tmp_path / "data")
    assert counts == ImportCounts(users=2, items=3, interactions=3, dropped=0)
    assert "already holds a dataset" in caplog.text


def test_fetch_refuses_a_folder_in_the_way(tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "notes.txt", ["mine"])
    with pytest.raises(ConfigError, match="is not empty"):
        fetch_movielens(tmp_path / "data")
