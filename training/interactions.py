"""Who did what and when: reads a dataset folder and splits it leave-one-out.

A dataset folder holds

    interactions.csv[.gz]   header `user_id,item_id,timestamp` in any column order, rows in any order
    items.jsonl[.gz]        one JSON object a line with a non-empty `item_id`

Other columns are ignored, other keys are metadata and kept as they are. A file's mistakes are one `DataError` with
the line of each. Files may be gzipped whatever their name says.
"""

import csv
import gzip
import json
import logging
import os
import re
import zipfile
import zlib
from array import array
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .errors import ConfigError, DataError, DatasetTooSmall
from .wrong_rows import UnitError, wrong_rows

logger = logging.getLogger(__name__)

INTERACTIONS_NAME = "interactions.csv"
ITEMS_NAME = "items.jsonl"
EVENT_COLUMNS = ("user_id", "item_id", "timestamp")
TimeUnit = Literal["seconds", "milliseconds"]

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_LONGEST_PLAIN = 11  # digits that are seconds before the year 10000, whichever they are
_YEAR_10000_S = 253_402_300_800
_YEAR_1978_S, _YEAR_2100_S = _YEAR_10000_S // 1000, 4_102_444_800  # milliseconds from 1978 on cannot be seconds
_LONGEST_NUMBER = 64  # characters
_LONGEST_SHOWN = 64  # characters
_LINES_PER_PROGRESS = 8192


@dataclass(frozen=True)
class Interactions:
    """All events of a dataset, user by user, and its catalog.

    user_ids       U ids, in order of first appearance
    item_ids       N ids: all of the items file in its order, then unlisted ones in order of appearance
    items          N metadata objects, each with its `item_id`
    offsets        int64 [U + 1], events of user u are offsets[u]:offsets[u + 1]
    events         int32 [E] item indices, oldest first within a user
    timestamps     int64 [E] seconds, rounded down
    whole_catalog  whether no line of the items file was left out, so that line n is item n - 1
    """

    user_ids: list[str]
    item_ids: list[str]
    items: list[dict[str, Any]]
    offsets: NDArray[np.int64]
    events: NDArray[np.int32]
    timestamps: NDArray[np.int64]
    whole_catalog: bool = True


@dataclass(frozen=True)
class Sequences:
    """Item sequences to train on; a user may have none.

    offsets  int64 [U + 1], the sequence of user u is items[offsets[u]:offsets[u + 1]]
    items    int32 [E_train] item indices, oldest first within a user
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]

    def counts(self, item_count: int) -> NDArray[np.int64]:
        """How often each item occurs; int64 [item_count]."""
        return np.bincount(self.items, minlength=item_count).astype(np.int64)

    def trained(self, item_count: int) -> NDArray[np.bool_]:
        """Items that a network learns something about, bool [item_count].

        A user's only training event is neither a history nor a target, so an item that has no other kind stays what it
        was at the start: with as little known of it as of an item without events.
        """
        used = np.repeat(np.diff(self.offsets) >= 2, np.diff(self.offsets))
        found = np.zeros(item_count, dtype=np.bool_)
        found[self.items[used]] = True
        return found


@dataclass(frozen=True)
class Holdout:
    """One target a user, and everything the user did before it.

    user    int64 [M] user indices, ascending
    target  int32 [M] item index to be predicted
    events  int32 [E], the events of all users, shared with `Interactions`
    start   int64 [M], first event of the user
    stop    int64 [M], place of the target
    """

    user: NDArray[np.int64]
    target: NDArray[np.int32]
    events: NDArray[np.int32]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.user.size)

    def history(self, row: int, limit: int | None = None) -> NDArray[np.int32]:
        """Items before the target of `row`, oldest first, the newest `limit` of them; a view, not to be written to."""
        start, stop = int(self.start[row]), int(self.stop[row])
        return self.events[start if limit is None else max(start, stop - limit) : stop]


@dataclass(frozen=True)
class Split:
    """Leave-one-out: a user's last event is the test target, the one before it the validation target."""

    interactions: Interactions
    train: Sequences
    valid: Holdout
    test: Holdout

    def learned_whole(self) -> "Split":
        """The same users with all their events to train on, the last ones too: holdouts of it measure nothing."""
        return replace(self, train=Sequences(self.interactions.offsets, self.interactions.events))

    def fingerprint(self) -> str:
        """SHA-256 of what may be learned from: each user's training sequence, with items named by their ids.

        A held-out target, a timestamp or a catalog item that nobody trained on changes nothing in it.
        """
        catalog, items = np.unique(self.train.items, return_inverse=True)
        digest = sha256(json.dumps([self.interactions.item_ids[i] for i in catalog]).encode())
        digest.update(self.train.offsets.astype("<i8").tobytes())
        digest.update(items.astype("<i8").tobytes())
        return digest.hexdigest()


class EventLog:
    """Growing columns of events, in the order in which they are added: 16 bytes an event, one dict entry an id."""

    def __init__(self, item_ids: Iterable[str] = ()) -> None:
        self.users: dict[str, int] = {}
        self.items: dict[str, int] = {item_id: index for index, item_id in enumerate(item_ids)}
        self._user = array("i")
        self._item = array("i")
        self._time_us = array("q")

    def add(self, user_id: str, item_id: str, time_us: int) -> None:
        """Raises ValueError for a wrong id, and then knows neither of both."""
        user, item = self.users.get(user_id), self.items.get(item_id)
        if user is None or item is None:
            user, item = self._enter(user_id, item_id)
        self._user.append(user)
        self._item.append(item)
        self._time_us.append(time_us)

    def __len__(self) -> int:
        return len(self._time_us)

    def _enter(self, user_id: str, item_id: str) -> tuple[int, int]:
        _refuse_bad_id(user_id, "user_id")
        _refuse_bad_id(item_id, "item_id")
        return self.users.setdefault(user_id, len(self.users)), self.items.setdefault(item_id, len(self.items))

    @property
    def user(self) -> NDArray[np.int32]:
        """int32 [E]."""
        return np.array(self._user, dtype=np.int32)

    @property
    def item(self) -> NDArray[np.int32]:
        """int32 [E]."""
        return np.array(self._item, dtype=np.int32)

    @property
    def time_us(self) -> NDArray[np.int64]:
        """int64 [E] microseconds: fractions of a second must not become ties."""
        return np.array(self._time_us, dtype=np.int64)


def read_dataset(folder: Path, *, tie_seed: int | None = None, skip_wrong_rows: int = 0) -> Interactions:
    """Reads a dataset folder; raises ConfigError when a file is missing and DataError for the wrong rows of both.

    Of each of the two files, up to `skip_wrong_rows` lines of wrong rows are left out with warnings: what is read is
    then what would be read of files that never had them.

    Events are sorted by time within each user and the file's order breaks ties, unless `tie_seed` is given: then events
    of one user with the same timestamp are shuffled. Reason: some published sets (Amazon reviews among them) know only
    the day of an event and list the events of a day by item id. For a user whose last two events share a day, "the last
    event" is then simply the one with the higher id, and a score on it rewards guessing by id instead of by taste. The
    shuffled place depends on seed, user id and item id alone: neither the file's order nor other users matter.
    """
    items_path, events_path = find_dataset(folder)
    try:
        items, whole_catalog = _read_items(items_path, skip_wrong_rows)
    except DataError as wrong:
        raise DataError(str(wrong), *_wrong_events(events_path, skip_wrong_rows)) from None
    log = EventLog(record["item_id"] for record in items)
    _read_events(events_path, log, skip_wrong_rows)
    unlisted = [{"item_id": item_id} for item_id in islice(log.items, len(items), None)]
    if unlisted:
        logger.warning("%s: %d items of the interactions are not in it and get no metadata", items_path, len(unlisted))
    return _arrange(log, items + unlisted, tie_seed, whole_catalog)


def find_dataset(folder: Path) -> tuple[Path, Path]:
    """Paths of the items and of the interactions; raises ConfigError when one is missing. Reads nothing."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder.")
    names = ITEMS_NAME, INTERACTIONS_NAME
    items, events = ([path for path in (folder / name, folder / f"{name}.gz") if path.is_file()] for name in names)
    if missing := [name for name, found in zip(names, (items, events), strict=True) if not found]:
        raise ConfigError(f"The folder {folder} holds {', and '.join(f'neither {n} nor {n}.gz' for n in missing)}.")
    for found in (items, events):
        if len(found) > 1:
            both = " and ".join(path.name for path in found)
            raise ConfigError(f"The folder {folder} holds both {both}, and it is unclear which one counts.")
    return items[0], events[0]


def leave_one_out(interactions: Interactions) -> Split:
    """Holds out the last two events of every user with at least three; others only train.

    Raises DatasetTooSmall when there is no such user, no second item or no user with two training events.
    """
    offsets = interactions.offsets
    lengths = np.diff(offsets)
    held_out = np.where(lengths >= 3, 2, 0)
    evaluated = np.flatnonzero(held_out)
    train_lengths = lengths - held_out
    _refuse_too_small(interactions, len(evaluated), int(train_lengths.max(initial=0)))
    ends = offsets[1:][evaluated]
    is_train = np.ones(len(interactions.events), dtype=np.bool_)
    is_train[ends - 1] = False
    is_train[ends - 2] = False
    return Split(
        interactions,
        Sequences(running_total(train_lengths), interactions.events[is_train]),
        valid=_holdout(interactions, evaluated, ends - 2),
        test=_holdout(interactions, evaluated, ends - 1),
    )


def text_lines(path: Path | zipfile.Path, encoding: str = "utf-8") -> Generator[str, None, None]:
    """Lines of a text file, gzipped or not, with their line ends, under a progress bar when it takes long.

    Raises DataError for damaged compression and for bytes that are not text in `encoding`.
    """
    number = 0
    try:
        with path.open("rb") as raw, _progress(path.name, raw.seek(0, os.SEEK_END)) as bar:
            raw.seek(0)
            is_gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            for number, line in enumerate(gzip.GzipFile(fileobj=raw) if is_gzip else raw, start=1):
                if number % _LINES_PER_PROGRESS == 0:
                    bar.update(raw.tell() - bar.n)
                text = line.decode(encoding)
                yield text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise DataError.at(path, number, f"Byte {error.start + 1} of this line is not valid {encoding}.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile):
        raise DataError.at(path, number + 1, "The compressed data is cut short or damaged here.") from None


def parse_time_us(text: str, unit: TimeUnit = "seconds") -> int:
    """A time as text, with or without a fraction, since or before 1970 → microseconds.

    Raises ValueError with a sentence; UnitError, which is one, for what is beyond the year 9999.
    """
    if len(text) <= _LONGEST_PLAIN and text.isascii() and text.isdigit():
        return int(text) * (1_000_000 // _PER_SECOND[unit])
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        raise ValueError(f"The timestamp {_shown(text)} is not a finite number.")
    time = float(text)
    if abs(time) >= _YEAR_10000_S * _PER_SECOND[unit]:
        raise UnitError(f"The timestamp {text!r} {_looks_like(time)}is too large to be {unit}.")
    return round(time * (1_000_000 // _PER_SECOND[unit]))


def running_total(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths int64 [U] → offsets int64 [U + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _looks_like(time: float) -> str:
    """The unit in which it would be a time of our days, for a sentence; "" where there is none."""
    for unit, per_second in _PER_SECOND.items():
        if _YEAR_1978_S <= abs(time) / per_second < _YEAR_2100_S:
            return f"looks like {unit} and "
    return ""


def _progress(name: str, size_bytes: int) -> Any:
    # disable=None: only on a terminal.
    return tqdm(total=size_bytes, unit="B", unit_scale=True, desc=name, disable=None, delay=1, leave=False)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")


def _refuse_bad_id(text: str, column: str) -> None:
    if not text.strip():
        raise ValueError(f"The {column} is empty.")
    if "\n" in text or "\r" in text:  # mostly a stray quotation mark that has swallowed a row
        raise ValueError(f"The {column} {_shown(text)} holds a line break.")


def _read_items(path: Path, skip_wrong_rows: int) -> tuple[list[dict[str, Any]], bool]:
    """Metadata of the items, and whether that is all that the file holds."""
    items: list[dict[str, Any]] = []
    line_of: dict[str, int] = {}
    with wrong_rows(path, skip_wrong_rows) as wrong:
        for line, text in enumerate(text_lines(path), start=1):
            try:
                record = _parse_item(text)
                _refuse_second(record["item_id"], line_of.get(record["item_id"]))
            except (ValueError, RecursionError) as error:
                wrong.add(line, _json_sentence(error))
                continue
            line_of[record["item_id"]] = line
            items.append(record)
    return items, not wrong.rows


def _refuse_second(item_id: str, first: int | None) -> None:
    if first is not None:
        raise ValueError(f"The item_id {_shown(item_id)} was already given in line {first}.")


def _parse_item(text: str) -> dict[str, Any]:
    record = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(record, dict):
        raise ValueError("The line is not a JSON object.")
    item_id = record.get("item_id")
    if not isinstance(item_id, str):
        raise ValueError("The object has no item_id that is a string.")
    _refuse_bad_id(item_id, "item_id")
    # Escaped halves of surrogate pairs and 1e999 are legal JSON, but no text and no number: artifacts cannot hold them.
    json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number.")


def _json_sentence(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"The line is not valid JSON: {error.msg} at column {error.colno}."
        case UnicodeEncodeError():
            return "The object holds text that is not valid Unicode."
        case RecursionError():
            return "The object is nested too deeply."
        case ValueError() if "JSON compliant" in str(error):
            return "The object holds a number beyond what a float can be."
        case _:
            return str(error)


def _read_events(path: Path, log: EventLog, skip_wrong_rows: int) -> None:
    rows = csv.reader(text_lines(path), strict=True)
    header = _read_header(path, rows)
    user, item, time = map(header.index, EVENT_COLUMNS)
    with wrong_rows(path, skip_wrong_rows) as wrong:
        at_end = False
        while not at_end:
            line = rows.line_num + 1
            try:
                for row in rows:
                    if len(row) != len(header):
                        raise ValueError(f"The row has {len(row)} columns where the header has {len(header)}.")
                    log.add(row[user], row[item], parse_time_us(row[time]))
                    line = rows.line_num + 1
                at_end = True
            except (csv.Error, ValueError) as error:  # around the loop, which thus costs nothing where rows are right
                wrong.add(line, _csv_sentence(error), rows.line_num + 1 - line, unit=isinstance(error, UnitError))
        wrong.refuse_unit(len(log))


def _wrong_events(path: Path, skip_wrong_rows: int) -> list[str]:
    """What is wrong with the events, where nothing can come of them anyway."""
    try:
        _read_events(path, EventLog(), skip_wrong_rows)
    except DataError as wrong:
        return [str(wrong)]
    return []


def _read_header(path: Path, rows: Iterator[list[str]]) -> list[str]:
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise DataError.at(path, 1, _csv_sentence(error)) from None
    for name in EVENT_COLUMNS:
        if header.count(name) != 1:
            sentence = f"The header must name the column {name} once, but it is {','.join(header)!r}."
            raise DataError.at(path, 1, sentence)
    return header


def _csv_sentence(error: Exception) -> str:
    if not isinstance(error, csv.Error):
        return str(error)
    hint = "; a quotation mark may not be closed" if "field limit" in str(error) else ""
    return f"The row is not valid CSV: {error}{hint}."


def _arrange(log: EventLog, items: list[dict[str, Any]], tie_seed: int | None, whole_catalog: bool) -> Interactions:
    user, item, time_us = log.user, log.item, log.time_us
    by_time: tuple[NDArray[Any], ...] = (time_us, user)
    if tie_seed is not None:
        by_time = (_tie_keys(log, tie_seed), *by_time)
    _warn_of_repeats(item, time_us, user)
    order = np.lexsort(by_time)  # last key first; stable
    return Interactions(
        user_ids=list(log.users),
        item_ids=list(log.items),
        items=items,
        offsets=running_total(np.bincount(user, minlength=len(log.users))),
        events=item[order],
        timestamps=time_us[order] // 1_000_000,
        whole_catalog=whole_catalog,
    )


def _warn_of_repeats(item: NDArray[np.int32], time_us: NDArray[np.int64], user: NDArray[np.int32]) -> None:
    """A row that is there twice makes a held-out event one that was seen."""
    order = np.lexsort((item, time_us, user))
    same = np.ones(max(0, len(order) - 1), dtype=np.bool_)
    for column in (user, time_us, item):
        same &= column[order[1:]] == column[order[:-1]]
    if repeats := int(same.sum()):
        logger.warning("%d events repeat another's user, item and time; they are kept", repeats)


def _tie_keys(log: EventLog, seed: int) -> NDArray[np.uint64]:
    keys = _id_hashes(log.users, seed)[log.user] ^ _id_hashes(log.items, seed)[log.item]
    # Unmixed, the order of two items would hang on one bit of the user's hash, the same bit for every user.
    keys = (keys ^ (keys >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0xD6E8FEB86659FD93)
    return keys ^ (keys >> np.uint64(32))


def _id_hashes(ids: Iterable[str], seed: int) -> NDArray[np.uint64]:
    key = str(seed).encode()
    digests = b"".join(blake2b(text.encode(), digest_size=8, key=key).digest() for text in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _holdout(interactions: Interactions, user: NDArray[np.int64], place: NDArray[np.int64]) -> Holdout:
    events = interactions.events
    return Holdout(user, events[place], events, interactions.offsets[user], place)


def _refuse_too_small(interactions: Interactions, evaluated: int, longest_training: int) -> None:
    user_count, item_count = len(interactions.user_ids), len(interactions.item_ids)
    size = f"the dataset has {user_count} users, {item_count} items and {len(interactions.events)} events"
    if item_count < 2:
        raise DatasetTooSmall(f"At least 2 items are needed, but {size}.")
    if evaluated < 1:
        raise DatasetTooSmall(f"No user has the 3 events that an evaluation needs: {size}.")
    if longest_training < 2:
        raise DatasetTooSmall(f"No user has 2 events to train on once targets are held out: {size}.")
