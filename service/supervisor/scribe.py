"""Writes down what is served, in a thread, so that a slow disk holds nothing up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from service.store import Deployment

from .last import LastCatalog, remember, remember_catalog

_CATALOG_EVERY_S: Final = 10.0  # a large catalog is written whole, so not at every change


class Scribe:
    """Keeps the files of `last` up to date."""

    def __init__(self, folder: Path, catalog: Callable[[], LastCatalog]) -> None:
        self._folder = folder
        self._catalog = catalog
        self._thread = ThreadPoolExecutor(1, "scribe")
        self._later: asyncio.TimerHandle | None = None

    def deployment(self, deployment: Deployment) -> None:
        """It serves."""
        self._thread.submit(remember, self._folder, deployment)

    def catalog_changed(self) -> None:
        """Written after a while, together with what else changes until then."""
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_CATALOG_EVERY_S, self._write_catalog)

    def catalog_now(self) -> None:
        """Writes what waits: nobody else may know it any more."""
        if self._later is not None:
            self._later.cancel()
            self._write_catalog()

    def close(self) -> None:
        """Writes what is not written yet."""
        self.catalog_now()
        self._thread.shutdown()

    def _write_catalog(self) -> None:
        self._later = None
        self._thread.submit(remember_catalog, self._folder, self._catalog())
