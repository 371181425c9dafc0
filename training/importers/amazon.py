"""Raw Amazon reviews and product metadata as McAuley's group published them in 2014, 2018 and 2023.

One JSON object a line, or in parts of 2014 a Python dict literal. Only the fields named here are read:

                2014 and 2018                          2023
    review      reviewerID, asin, unixReviewTime (s)   user_id, parent_asin or asin, timestamp (ms)
    metadata    asin, title, brand, price,             parent_asin, title, store, price,
                categories (2014) or category (2018)   categories, description
"""

import ast
import html
import json
import math
import re
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..interactions import TimeUnit, parse_time_us, text_lines
from .core_filter import select_core
from .dataset_folder import ImportCounts, refuse_unusable, write_dataset
from .rows import Event, Record, Source, read_events, read_records

_ITEM_ID = re.compile(r"""["'](?:parent_)?asin["']\s*:\s*u?["']([^"'\\]+)["']""")
_LINES_LOOKED_AT = 20
_PRICE = re.compile(r"\$?\s*(?P<amount>[0-9][0-9,]*(\.[0-9]+)?)")


def import_amazon(
    reviews: Path, metadata: Path, out: Path, min_core: int = 5, *, skip_wrong_rows: int = 0, force: bool = False
) -> ImportCounts:
    """Of a user's reviews of one product the oldest counts; metadata outside the core is read past, not kept."""
    refuse_unusable(out, force=force)
    for path in (reviews, metadata):
        if not path.is_file():
            raise ConfigError(f"There is no file {path}.")
    log = read_events(Source(reviews, skip_wrong_rows=skip_wrong_rows), _parse_review)
    events = select_core(log, min_core, drop_repeats=True)
    source = Source(metadata, skip_wrong_rows=skip_wrong_rows)
    records = read_records(source, _parse_metadata, _item_of, events.kept_item_ids())
    return write_dataset(out, events, records, force=force)


def find_amazon_files(src: Path) -> tuple[Path, Path]:
    """Reviews and metadata among the files of a folder, told apart by the fields of their first records."""
    if not src.is_dir():
        raise ConfigError(f"There is no folder {src}.")
    files = sorted(path for path in src.iterdir() if path.is_file())
    kinds = {path: _kind(path) for path in files}
    reviews, metadata = ([path for path in files if kinds[path] == kind] for kind in ("reviews", "metadata"))
    if len(reviews) != 1 or len(metadata) != 1:
        raise ConfigError(
            f"The folder {src} must hold one file of reviews and one of metadata, "
            f"but {len(reviews)} and {len(metadata)} were found."
        )
    return reviews[0], metadata[0]


def _kind(path: Path) -> str:
    try:
        with closing(text_lines(path)) as lines:
            return next(filter(None, map(_kind_of, islice(lines, _LINES_LOOKED_AT))), "other")
    except DataError:
        return "other"  # a picture may lie beside the data


def _kind_of(text: str) -> str | None:
    """None for a wrong row, and for a line of a README."""
    try:
        record = _parse_record(text)
    except ValueError:
        return None
    if "reviewerID" in record or "user_id" in record:
        return "reviews"
    return "metadata" if "asin" in record or "parent_asin" in record else None


def _parse_review(text: str) -> Event:
    record = _parse_record(text)
    if "reviewerID" in record:
        return _text(record, "reviewerID"), _text(record, "asin"), _time_us(record, "unixReviewTime", "seconds")
    return _text(record, "user_id"), _text(record, "parent_asin", "asin"), _time_us(record, "timestamp", "milliseconds")


def _parse_metadata(text: str) -> Record:
    record = _parse_record(text)
    values = {
        "title": _title(record.get("title")),
        "brand": _clean(record.get("brand") or record.get("store")),
        "categories": _paths(record.get("categories") or record.get("category")),
        "price": _price(record.get("price")),
        "description": _clean(record.get("description")),
    }
    item_id = _text(record, "parent_asin", "asin")
    return {"item_id": item_id} | {name: value for name, value in values.items() if value}


def _item_of(text: str) -> str | None:
    """The item that a line speaks of, even where it is cut off or otherwise no record."""
    found = set(_ITEM_ID.findall(text))
    return found.pop() if len(found) == 1 else None


def _parse_record(text: str) -> dict[str, Any]:
    record: Any = None
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            record = read(text.strip())
            break
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    if not isinstance(record, dict):
        raise ValueError("The line is neither a JSON object nor a Python dict literal.")
    return record


def _text(record: dict[str, Any], *names: str) -> str:
    for name in names:
        if isinstance(value := record.get(name), str):
            if _whole(value) != value:
                raise ValueError(f"The {name} is not valid Unicode.")
            return value
    raise ValueError(f"The object has no text in {' or '.join(names)}.")


def _time_us(record: dict[str, Any], name: str, unit: TimeUnit) -> int:
    if name not in record:
        raise ValueError(f"The object has no {name}.")
    return parse_time_us(str(record[name]), unit)


def _title(value: object) -> str | None:
    title = _clean(value)
    # The crawl of 2018 took scripts of the page for the titles of some products.
    return None if title is None or "getTime()" in title else title


def _clean(value: object) -> str | None:
    parts = value if isinstance(value, list) else [value]
    texts = [_whole(html.unescape(part)).strip() for part in parts if isinstance(part, str)]
    return " ".join(filter(None, texts)) or None


def _whole(text: str) -> str:
    """The text with ? for each half of a surrogate pair, which JSON may hold and no file."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _paths(value: object) -> list[list[str]]:
    """Category paths, root first: 2014 has several, later years one that is not wrapped."""
    if not isinstance(value, list):
        return []
    paths = [path for path in value if isinstance(path, list)] or [value]
    cleaned = [[name for name in map(_clean, path) if name] for path in paths]
    return [path for path in cleaned if path]


def _price(value: object) -> float | None:
    """None for a range or a text that is no price."""
    if isinstance(value, str) and (match := _PRICE.fullmatch(value.strip())):
        return float(match["amount"].replace(",", ""))
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None
