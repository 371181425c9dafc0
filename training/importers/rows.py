"""Reading source files row by row, so that a wrong row is a `DataError` with file and line."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..interactions import EventLog, text_lines

Folder = Path | zipfile.Path
"""A folder on disk or inside a zip file."""

Event = tuple[str, str, int]
"""user_id, item_id, time in microseconds."""

Record = dict[str, Any]
"""Metadata of one item, with its `item_id`."""


def first_line(path: Folder, encoding: str = "utf-8") -> str:
    """Empty for an empty file."""
    with closing(text_lines(path, encoding)) as lines:
        return next(lines, "").rstrip("\r\n")


def read_events(
    path: Folder, parse: Callable[[str], Event], encoding: str = "utf-8", header_lines: int = 0
) -> EventLog:
    """`parse` says with a ValueError what is wrong with a row."""
    log = EventLog()
    for line, text in _numbered(path, encoding, header_lines):
        try:
            log.add(*parse(text))
        except ValueError as error:
            raise DataError(path, line, str(error)) from None
    return log


def read_records(
    path: Folder, parse: Callable[[str], Record], encoding: str = "utf-8", header_lines: int = 0
) -> Iterator[Record]:
    """`parse` says with a ValueError what is wrong with a row."""
    for line, text in _numbered(path, encoding, header_lines):
        try:
            record = parse(text)
        except ValueError as error:
            raise DataError(path, line, str(error)) from None
        yield record


def split_row(text: str, separator: str, count: int) -> list[str]:
    """Exactly `count` fields, or a ValueError."""
    fields = text.split(separator)
    if len(fields) != count:
        raise ValueError(f"The row has {len(fields)} fields instead of {count}.")
    return fields


def _numbered(path: Folder, encoding: str, header_lines: int) -> Iterator[tuple[int, str]]:
    lines = enumerate(text_lines(path, encoding), start=1)
    return ((line, text.rstrip("\r\n")) for line, text in islice(lines, header_lines, None))
