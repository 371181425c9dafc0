"""Reading source files row by row, so that wrong rows are one `DataError` with file and line of each."""

import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..interactions import EventLog, text_lines
from ..wrong_rows import UnitError, wrong_rows

logger = logging.getLogger(__name__)

Folder = Path | zipfile.Path
"""A folder on disk or inside a zip file."""

Event = tuple[str, str, int]
"""user_id, item_id, time in microseconds."""

Record = dict[str, Any]
"""Metadata of one item, with its `item_id`."""


@dataclass(frozen=True)
class Source:
    """A file of rows, one a line.

    header_lines     lines before the first row
    skip_wrong_rows  how many wrong rows are left out, at most
    """

    path: Folder
    encoding: str = "utf-8"
    header_lines: int = 0
    skip_wrong_rows: int = 0

    def rows(self) -> Iterator[tuple[int, str]]:
        """Line number and text of each, without its line end."""
        lines = enumerate(text_lines(self.path, self.encoding), start=1)
        return ((line, text.rstrip("\r\n")) for line, text in islice(lines, self.header_lines, None))


def first_line(path: Folder, encoding: str = "utf-8") -> str:
    """Empty for an empty file."""
    with closing(text_lines(path, encoding)) as lines:
        return next(lines, "").rstrip("\r\n")


def read_events(source: Source, parse: Callable[[str], Event]) -> EventLog:
    """`parse` says with a ValueError what is wrong with a row."""
    log = EventLog()
    with wrong_rows(source.path, source.skip_wrong_rows) as wrong:
        for line, text in source.rows():
            try:
                log.add(*parse(text))
            except ValueError as error:
                wrong.add(line, str(error), unit=isinstance(error, UnitError))
        wrong.refuse_unit(len(log))
    return log


def read_records(
    source: Source, parse: Callable[[str], Record], item_of: Callable[[str], str | None], kept_ids: Iterable[str]
) -> Iterator[Record]:
    """Metadata; no wrong row matters but those that an item may lack.

    parse     says with a ValueError what is wrong with a row
    item_of   the item that a wrong row is of; None where nobody can know
    kept_ids  items that are to have metadata
    """
    missing, harmless = set(kept_ids), 0
    with wrong_rows(source.path, source.skip_wrong_rows) as wrong:
        for line, text in source.rows():
            try:
                record = parse(text)
            except ValueError as error:
                item_id = item_of(text)
                if item_id is None or item_id in missing:
                    wrong.add(line, str(error))
                else:
                    harmless += 1
                continue
            missing.discard(record["item_id"])
            yield record
        if not missing:
            harmless += wrong.forgive()
    if harmless:
        logger.warning("%s: %d wrong rows do not matter: no item of the dataset lacks them", source.path, harmless)


def split_row(text: str, separator: str, count: int) -> list[str]:
    """Exactly `count` fields, or a ValueError."""
    fields = text.split(separator)
    if len(fields) != count:
        raise ValueError(f"The row has {len(fields)} fields instead of {count}.")
    return fields
