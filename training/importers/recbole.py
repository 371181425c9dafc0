"""RecBole atomic files: `NAME.inter` and, if there is one, `NAME.item`.

Tab separated; the header names every column as `field:type` with the types token, token_seq, float and float_seq.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..interactions import EVENT_COLUMNS, EventLog, parse_time_us
from .core_filter import select_core
from .dataset_folder import ImportCounts, refuse_unusable, write_dataset
from .rows import Event, Folder, Record, Source, first_line, read_events, read_records, split_row

Field = tuple[str, str]
"""Name and type of a column."""

_TYPES = ("token", "token_seq", "float", "float_seq")
_NEW_NAMES = {"movie_title": "title", "class": "genres", "release_year": "year"}


def import_recbole(
    src: Folder, out: Path, min_core: int = 5, *, skip_wrong_rows: int = 0, force: bool = False
) -> ImportCounts:
    """`src` is a folder with one .inter file, which must name user_id, item_id and timestamp."""
    refuse_unusable(out, force=force)
    found = [path for path in src.iterdir() if path.name.endswith(".inter")] if src.is_dir() else []
    if len(found) != 1:
        raise ConfigError(f"{src} must be a folder with one .inter file, but {len(found)} were found.")
    events = select_core(_read_interactions(found[0], skip_wrong_rows), min_core)
    items = src / (found[0].name.removesuffix(".inter") + ".item")
    records = _read_items(items, events.kept_item_ids(), skip_wrong_rows) if items.is_file() else []
    return write_dataset(out, events, records, force=force)


def _read_interactions(path: Folder, skip_wrong_rows: int) -> EventLog:
    def parse(text: str) -> Event:
        fields = split_row(text, "\t", len(header))
        return fields[user], fields[item], parse_time_us(fields[time])

    header = _read_header(path, EVENT_COLUMNS)
    names = [name for name, _ in header]
    user, item, time = (names.index(name) for name in EVENT_COLUMNS)
    return read_events(Source(path, header_lines=1, skip_wrong_rows=skip_wrong_rows), parse)


def _read_items(path: Folder, kept_ids: list[str], skip_wrong_rows: int) -> Iterator[Record]:
    def parse(text: str) -> Record:
        cells = zip(header, split_row(text, "\t", len(header)), strict=True)
        values = {_NEW_NAMES.get(name, name): _value(name, kind, cell) for (name, kind), cell in cells}
        return {name: value for name, value in values.items() if value is not None}

    def item_of(text: str) -> str | None:
        fields = text.split("\t")
        return fields[item] if len(fields) == len(header) else None

    header = _read_header(path, ("item_id",))
    item = [name for name, _ in header].index("item_id")
    return read_records(Source(path, header_lines=1, skip_wrong_rows=skip_wrong_rows), parse, item_of, kept_ids)


def _read_header(path: Folder, required: tuple[str, ...]) -> list[Field]:
    header: list[Field] = []
    for column in first_line(path).split("\t"):
        name, _, kind = column.partition(":")
        if kind not in _TYPES:
            raise DataError.at(path, 1, f"The header column {column!r} is not a field and one of {', '.join(_TYPES)}.")
        header.append((name, kind))
    names = [name for name, _ in header]
    for name in required:
        if names.count(name) != 1:
            raise DataError.at(path, 1, f"The header must name the field {name} once.")
    return header


def _value(name: str, kind: str, cell: str) -> Any:
    """None where the cell says nothing."""
    if name == "item_id":
        return cell
    if name == "release_year":
        # Some years of the published MovieLens file are not numbers.
        return int(cell) if cell.isascii() and cell.isdigit() else None
    if kind == "token_seq" and not name.endswith("title"):
        return [token for token in cell.split() if (name, token) != ("class", "unknown")]
    if kind == "float_seq":
        return [_finite(part) for part in cell.split()]
    if not cell:
        return None
    return _finite(cell) if kind == "float" else cell


def _finite(cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{cell!r} is not a finite number.")
    return number
