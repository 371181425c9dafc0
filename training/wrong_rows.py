"""Wrong rows of a file: one reading finds them all, the first ones are named, and some may be left out."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from .errors import DataError

logger = logging.getLogger(__name__)

_NAMED: Final = 20


class UnitError(ValueError):
    """A number that would be right in another unit; where most rows have one, the file is at fault and not they."""


class WrongRows:
    """Those found in one file so far.

    rows   how many
    lines  lines of the file that they take up: a quotation mark that is not closed takes the rows behind it along
    """

    def __init__(self, path: object) -> None:
        self.path = path
        self.rows = 0
        self.lines = 0
        self._named: list[str] = []
        self._wrong_units = 0
        self._first_unit = ""

    def add(self, line: int, sentence: str, lines: int = 1, *, unit: bool = False) -> None:
        """A row that begins in `line`, and what is wrong with it; `unit`: that is a `UnitError`."""
        told = str(DataError.at(self.path, line, sentence))
        if self.rows < _NAMED:
            self._named.append(told)
        if unit:
            self._wrong_units += 1
            self._first_unit = self._first_unit or told
        self.rows += 1
        self.lines += lines

    def refuse_unit(self, right: int) -> None:
        """Raises DataError, one sentence for all of them, where more rows have a wrong unit than are `right`."""
        if self._wrong_units > max(right, 1):
            self.forgive()
            more = f", as are those of {self._wrong_units - 1:,} more rows."
            raise DataError(self._first_unit.removesuffix(".") + more)

    def forgive(self) -> int:
        """Forgets all that were found; returns how many lines they took up."""
        lines, self.rows, self.lines = self.lines, 0, 0
        self._named.clear()
        return lines

    def sentences(self) -> list[str]:
        """One for each of the first rows, in order, and how many more there are."""
        more = self.rows - len(self._named)
        return [*self._named, f"… and {more:,} more in {self.path}"] if more else self._named


@contextmanager
def wrong_rows(path: object, allowed: int) -> Iterator[WrongRows]:
    """Collects the wrong rows of a file while it is read; the reader leaves them out.

    Raises DataError where they take up more than `allowed` lines in the end, or at once for a DataError of the reader,
    with which reading on makes no sense; else each of the first is a warning, and so is their number.
    """
    found = WrongRows(path)
    try:
        yield found
    except DataError as last:
        raise DataError(*found.sentences(), str(last)) from None
    if found.lines > allowed:
        raise DataError(*found.sentences(), *_limit(found, allowed))
    for sentence in found.sentences():
        logger.warning("left out: %s", sentence)
    if found.rows:
        logger.warning("%s: %d wrong %s left out", path, found.lines, "lines are" if found.lines > 1 else "line is")


def _limit(found: WrongRows, allowed: int) -> list[str]:
    if not allowed:
        return []
    return [f"{found.path}: {found.lines:,} lines are wrong, and at most {allowed:,} may be left out."]
