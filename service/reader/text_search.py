"""Words → items: every word must occur in an item's id or in a value of its metadata, whatever the case.

There is no index: the metadata of a million items is scanned as bytes in a fraction of a second. Text beyond ASCII is
case-folded once and kept, as far as memory for it is set aside.
"""

import json
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice, pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.catalog.items import LiveItems

_CHUNK_BYTES: Final = 1 << 20
_CHUNK_ITEMS: Final = 1 << 14  # whose ids are put beside their metadata between two looks at the clock
_KEPT_BYTES: Final = 1 << 29
_ID_FIRST: Final = b'{"item_id": '
_SYNTAX: Final = frozenset('{}[]:,"')
_BACKSLASH: Final = ord("\\")
_TITLES: Final = (b'"title": "', b'"name": "')
_LOOK_AT_CLOCK: Final = 256  # rows
_BLOCK_ITEMS: Final = 1024  # changed ones that are folded together, and kept until one of them changes


class Chunk(NamedTuple):
    """Case-folded JSON of some items; that of items[n] is text[bounds[n]:bounds[n + 1]]. `bounds` is int64."""

    items: Sequence[int]
    text: bytes
    bounds: NDArray[np.int64]


class Found(NamedTuple):
    """One page of what was found, and how many items there are of it in all; None: the scan was stopped."""

    items: list[int]
    total: int | None


@dataclass
class _Hits:
    """Items that hold all words, those with all of them in the title apart."""

    title: list[int] = field(default_factory=list)
    other: list[int] = field(default_factory=list)


class TextSearch:
    """Finds items of one catalog by their text. May be called from several threads."""

    def __init__(self, items: LiveItems, *, budget_s: float = 2.0, chunk_bytes: int = _CHUNK_BYTES) -> None:
        """Stops looking after `budget_s`."""
        self._items = items
        self._budget_s = budget_s
        self._text = items.artifact.array("metadata_text")
        self._bounds = items.artifact.array("metadata_bounds")
        chunks = 1 + int(self._bounds[-1]) // chunk_bytes
        cuts = np.searchsorted(self._bounds, np.arange(1, chunks) * chunk_bytes)
        self._cuts = np.unique([*range(0, items.trained, _CHUNK_ITEMS), *cuts.tolist(), items.trained]).tolist()
        self._kept: dict[int, Chunk] = {}
        self._plain: set[int] = set()  # chunks that are ASCII and hold their items' ids
        self._kept_bytes = 0
        self._blocks: dict[int, tuple[list[bytes], Chunk]] = {}  # changed items: their metadata, and it folded

    def find(self, text: str, limit: int, offset: int = 0) -> Found:
        """The item with this id first, then those with all words in the title, then the others, each by index.

        No words at all: every item, by index.
        """
        words = [
            json.dumps(word, ensure_ascii=False)[1:-1].casefold().encode(errors="surrogatepass")
            for word in text.split()
        ]
        if not words:
            return self._everything(limit, offset)
        exact = self._exact(text.strip())
        hits, stopped = self._scan(sorted(words, key=len, reverse=True))
        ranked = exact + [item for item in sorted(hits.title) + sorted(hits.other) if item not in exact]
        return Found(ranked[offset : offset + limit], None if stopped else len(ranked))

    def _everything(self, limit: int, offset: int) -> Found:
        removed = sorted(self._items.removed_items())
        first = offset + _places_before(removed, offset)
        last = min(first + limit + len(removed), self._items.count)
        gone = set(removed)
        page = islice((item for item in range(first, last) if item not in gone), limit)
        return Found(list(page), self._items.count - len(removed))

    def _exact(self, item_id: str) -> list[int]:
        index = int(self._items.indices([item_id])[0])
        return [] if index < 0 or self._items.is_removed(index) else [index]

    def _scan(self, words: Sequence[bytes]) -> tuple[_Hits, bool]:
        """Hits, and whether time ended before the items did. `words` are folded JSON, the longest first."""
        give_up = time.monotonic() + self._budget_s
        removed, hits = set(self._items.removed_items()), _Hits()
        elsewhere = removed | set(self._items.changed_items())
        for block, items in groupby(sorted(self._items.changed_items()), lambda index: index // _BLOCK_ITEMS):
            if time.monotonic() > give_up:
                return hits, True
            _search(self._changed(block, list(items)), words, removed, hits, give_up)
        for number in range(len(self._cuts) - 1):
            if time.monotonic() > give_up:
                return hits, True
            _search(self._chunk(number), words, elsewhere, hits, give_up)
        return hits, time.monotonic() > give_up

    def _changed(self, block: int, items: list[int]) -> Chunk:
        """Of items of one block whose metadata is not the artifact's."""
        metadata = [self._items.metadata_json(index) for index in items]
        kept = self._blocks.get(block)
        if kept and kept[1].items == items and kept[0] == metadata:  # mostly the same objects, so not compared
            return kept[1]
        rows = [_with_id(self._items.item_id(index), row) for index, row in zip(items, metadata, strict=True)]
        chunk = _folded(items, rows)
        self._blocks[block] = metadata, chunk
        return chunk

    def _chunk(self, number: int) -> Chunk:
        """Trained items number `cuts[number]` up to the next cut."""
        if kept := self._kept.get(number):
            return kept
        items = range(self._cuts[number], self._cuts[number + 1])
        bounds = self._bounds[items.start : items.stop + 1]
        raw = self._text[bounds[0] : bounds[-1]].tobytes()
        bounds = bounds - bounds[0]
        if number in self._plain or (raw.isascii() and _ids_inside(raw, len(items))):
            self._plain.add(number)
            return Chunk(items, raw.lower(), bounds)
        chunk = _folded(items, self._rows(items, raw, bounds))
        if self._kept_bytes < _KEPT_BYTES:
            self._kept_bytes += len(chunk.text)
            self._kept[number] = chunk
        return chunk

    def _rows(self, items: range, raw: bytes, bounds: NDArray[np.int64]) -> list[bytes]:
        rows = [raw[start:end] for start, end in pairwise(bounds.tolist())]
        if _ids_inside(raw, len(rows)):
            return rows
        return [_with_id(self._items.item_id(item), row) for item, row in zip(items, rows, strict=True)]


def _places_before(removed: Sequence[int], offset: int) -> int:
    """How many of `removed`, ascending, stand before the item that has `offset` others before it."""
    return sum(1 for place, item in enumerate(removed) if item - place <= offset)


def _ids_inside(raw: bytes, rows: int) -> bool:
    """Two braces meet only between rows: within an object there is a comma, and in strings quotes are escaped."""
    return raw.startswith(_ID_FIRST) and raw.count(b"}" + _ID_FIRST) == rows - 1


def _with_id(item_id: str, metadata: bytes) -> bytes:
    return json.dumps(item_id, ensure_ascii=False).encode() + b" " + metadata


def _folded(items: Sequence[int], rows: Sequence[bytes]) -> Chunk:
    """JSON holds no line break, so one between the rows marks their bounds however long they become."""
    text = b"\n".join(rows).decode().casefold().encode()
    breaks = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
    return Chunk(items, text, np.concatenate([[0], breaks + 1, [len(text)]]))


def _search(chunk: Chunk, words: Sequence[bytes], skip: set[int], hits: _Hits, give_up: float) -> None:
    items, text = chunk.items, chunk.text
    at, rows = text.find(words[0]), 0
    bounds = chunk.bounds.tolist() if at >= 0 else []
    while at >= 0 and (rows % _LOOK_AT_CLOCK or time.monotonic() <= give_up):
        row = bisect_right(bounds, at) - 1
        start, end = bounds[row], bounds[row + 1]
        if items[row] not in skip and all(_holds(text, word, start, end) for word in words):
            in_title = _title_holds(text, words, start, end)
            (hits.title if in_title else hits.other).append(items[row])
        at, rows = text.find(words[0], end), rows + 1


def _holds(text: bytes, word: bytes, start: int, end: int) -> bool:
    """Whether a value between `start` and `end` holds the word; names of attributes do not count."""
    return any(
        not _is_name(text, at + len(word), end) and not _is_syntax(text, word, start, at)
        for at in _places(text, word, start, end)
    )


def _places(text: bytes, word: bytes, start: int, end: int) -> Iterator[int]:
    """Where the word begins, but not in the middle of an escape."""
    at = text.find(word, start, end)
    while at >= 0:
        if text[at - 1] != _BACKSLASH or not _is_escaped(text, at):
            yield at
        at = text.find(word, at + 1, end)


def _is_escaped(text: bytes, at: int) -> bool:
    """Whether an odd number of backslashes comes before."""
    before = at
    while before > 0 and text[before - 1] == _BACKSLASH:
        before -= 1
    return (at - before) % 2 == 1


def _is_name(text: bytes, at: int, end: int) -> bool:
    """Whether the string that goes on at `at` is followed by a colon."""
    quote = _closing_quote(text, at, end)
    return text[quote + 1 : quote + 2] == b":"


def _is_syntax(text: bytes, word: bytes, start: int, at: int) -> bool:
    """Whether a word of nothing but JSON's own signs stands between strings and not in one."""
    if not _SYNTAX.issuperset(word.decode()):
        return False
    before = text[start:at].replace(b"\\\\", b"").replace(b'\\"', b"")
    return before.count(b'"') % 2 == 0


def _closing_quote(text: bytes, at: int, end: int) -> int:
    """Place of the next quote that no backslash escapes, -1: none."""
    return next(_places(text, b'"', at, end), -1)


def _title_holds(text: bytes, words: Sequence[bytes], start: int, end: int) -> bool:
    for name in _TITLES:
        at = text.find(name, start, end)
        if at >= 0:
            begin = at + len(name)
            close = _closing_quote(text, begin, end)
            return all(any(True for _ in _places(text, word, begin, close)) for word in words)
    return False
