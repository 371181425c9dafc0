"""GroupLens MovieLens 100K (`u.data`, `u.item`, `u.genre`) and 1M (`ratings.dat`, `movies.dat`)."""

import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..errors import ConfigError
from ..interactions import parse_time_us, text_lines
from .core_filter import CoreEvents, select_core
from .dataset_folder import ImportCounts, refuse_unusable, write_dataset
from .rows import Event, Folder, Record, Source, read_events, read_records, split_row

# "Toy Story (1995)", and "Land Before Time III (1995) (V)" where V says that it came out on video.
_TITLE = re.compile(r"(?P<title>.*\S)\s*\((?P<year>[0-9]{4})\)(\s*\([A-Z]+\))?")

_ENCODING = "latin-1"


def import_movielens(
    src: Path, out: Path, min_core: int = 5, *, skip_wrong_rows: int = 0, force: bool = False
) -> ImportCounts:
    """`src` is an unpacked folder or the .zip; every rating counts as an event, whatever its value."""
    refuse_unusable(out, force=force)
    if src.is_dir():
        return _import(src, out, min_core, skip_wrong_rows, force)
    try:
        with zipfile.ZipFile(src) as archive:
            return _import(zipfile.Path(archive), out, min_core, skip_wrong_rows, force)
    except FileNotFoundError:
        raise ConfigError(f"There is no file or folder {src}.") from None
    except zipfile.BadZipFile:
        raise ConfigError(f"{src} is neither a folder nor a zip file.") from None


def _import(src: Folder, out: Path, min_core: int, skip_wrong_rows: int, force: bool) -> ImportCounts:
    for folder in (src, *(child for child in src.iterdir() if child.is_dir())):
        if (folder / "u.data").is_file():
            events, records = _read_100k(folder, min_core, skip_wrong_rows)
            break
        if (folder / "ratings.dat").is_file():
            events, records = _read_1m(folder, min_core, skip_wrong_rows)
            break
    else:
        raise ConfigError(f"{src} holds neither u.data nor ratings.dat, so it is no MovieLens 100K or 1M.")
    return write_dataset(out, events, records, force=force)


def _read_100k(folder: Folder, min_core: int, skip_wrong_rows: int) -> tuple[CoreEvents, Iterator[Record]]:
    def parse_movie(text: str) -> Record:
        fields = split_row(text, "|", 5 + len(genres))
        return _record(fields[0], fields[1], [g for g, flag in zip(genres, fields[5:], strict=True) if flag == "1"])

    genres = [line.split("|")[0] for line in text_lines(_present(folder / "u.genre"), _ENCODING) if line.strip()]
    movies = _present(folder / "u.item")
    source = partial(Source, encoding=_ENCODING, skip_wrong_rows=skip_wrong_rows)
    log = read_events(source(folder / "u.data"), lambda text: _parse_rating(text, "\t"))
    events = select_core(log, min_core)
    return events, read_records(source(movies), parse_movie, partial(_item_of, separator="|"), events.kept_item_ids())


def _read_1m(folder: Folder, min_core: int, skip_wrong_rows: int) -> tuple[CoreEvents, Iterator[Record]]:
    def parse_movie(text: str) -> Record:
        item_id, title, genres = split_row(text, "::", 3)
        return _record(item_id, title, genres.split("|"))

    movies = _present(folder / "movies.dat")
    source = partial(Source, encoding=_ENCODING, skip_wrong_rows=skip_wrong_rows)
    log = read_events(source(folder / "ratings.dat"), lambda text: _parse_rating(text, "::"))
    events = select_core(log, min_core)
    return events, read_records(source(movies), parse_movie, partial(_item_of, separator="::"), events.kept_item_ids())


def _present(path: Folder) -> Folder:
    if not path.is_file():
        raise ConfigError(f"The file {path} is missing.")
    return path


def _parse_rating(text: str, separator: str) -> Event:
    user_id, item_id, _, seconds = split_row(text, separator, 4)
    return user_id, item_id, parse_time_us(seconds)


def _item_of(text: str, separator: str) -> str | None:
    item_id = text.partition(separator)[0]
    return item_id if item_id.isdigit() else None


def _record(item_id: str, title: str, genres: list[str]) -> Record:
    record: Record = {"item_id": item_id, "title": title}
    if match := _TITLE.fullmatch(title):
        record |= {"title": match["title"], "year": int(match["year"])}
    return record | {"genres": [genre for genre in genres if genre != "unknown"]}
