"""GroupLens MovieLens 100K (`u.data`, `u.item`, `u.genre`) and 1M (`ratings.dat`, `movies.dat`)."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError
from ..interactions import EventLog, parse_time_us, text_lines
from .core_filter import select_core
from .dataset_folder import ImportCounts, refuse_unusable, write_dataset
from .rows import Event, Folder, Record, read_events, read_records, split_row

# "Toy Story (1995)", and "Land Before Time III (1995) (V)" where V says that it came out on video.
_TITLE = re.compile(r"(?P<title>.*\S)\s*\((?P<year>[0-9]{4})\)(\s*\([A-Z]+\))?")

_ENCODING = "latin-1"


def import_movielens(src: Path, out: Path, min_core: int = 5, *, force: bool = False) -> ImportCounts:
    """`src` is an unpacked folder or the .zip; every rating counts as an event, whatever its value."""
    refuse_unusable(out, force=force)
    if src.is_dir():
        return _import(src, out, min_core, force)
    try:
        with zipfile.ZipFile(src) as archive:
            return _import(zipfile.Path(archive), out, min_core, force)
    except FileNotFoundError:
        raise ConfigError(f"There is no file or folder {src}.") from None
    except zipfile.BadZipFile:
        raise ConfigError(f"{src} is neither a folder nor a zip file.") from None


def _import(src: Folder, out: Path, min_core: int, force: bool) -> ImportCounts:
    for folder in (src, *(child for child in src.iterdir() if child.is_dir())):
        if (folder / "u.data").is_file():
            log, records = _read_100k(folder)
            break
        if (folder / "ratings.dat").is_file():
            log, records = _read_1m(folder)
            break
    else:
        raise ConfigError(f"{src} holds neither u.data nor ratings.dat, so it is no MovieLens 100K or 1M.")
    return write_dataset(out, select_core(log, min_core), records, force=force)


def _read_100k(folder: Folder) -> tuple[EventLog, Iterator[Record]]:
    def parse_movie(text: str) -> Record:
        fields = split_row(text, "|", 5 + len(genres))
        return _record(fields[0], fields[1], [g for g, flag in zip(genres, fields[5:], strict=True) if flag == "1"])

    genres = [line.split("|")[0] for line in text_lines(_present(folder / "u.genre"), _ENCODING) if line.strip()]
    movies = _present(folder / "u.item")
    log = read_events(folder / "u.data", lambda text: _parse_rating(text, "\t"), _ENCODING)
    return log, read_records(movies, parse_movie, _ENCODING)


def _read_1m(folder: Folder) -> tuple[EventLog, Iterator[Record]]:
    def parse_movie(text: str) -> Record:
        item_id, title, genres = split_row(text, "::", 3)
        return _record(item_id, title, genres.split("|"))

    movies = _present(folder / "movies.dat")
    log = read_events(folder / "ratings.dat", lambda text: _parse_rating(text, "::"), _ENCODING)
    return log, read_records(movies, parse_movie, _ENCODING)


def _present(path: Folder) -> Folder:
    if not path.is_file():
        raise ConfigError(f"The file {path} is missing.")
    return path


def _parse_rating(text: str, separator: str) -> Event:
    user_id, item_id, _, seconds = split_row(text, separator, 4)
    return user_id, item_id, parse_time_us(seconds)


def _record(item_id: str, title: str, genres: list[str]) -> Record:
    record: Record = {"item_id": item_id, "title": title}
    if match := _TITLE.fullmatch(title):
        record |= {"title": match["title"], "year": int(match["year"])}
    return record | {"genres": [genre for genre in genres if genre != "unknown"]}
