"""Writes down what is served, in a thread, so that a slow disk holds nothing up."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from service.store import Deployment

from .last import LastCatalog, remember, remember_catalog

_CATALOG_EVERY_S: Final = 10.0  # it is written whole, so not at every change
_PAUSE: Final = 20  # times as long as the last writing took: a catalog of millions must not keep a disk busy


class Scribe:
    """Keeps the files of `last` up to date."""

    def __init__(
        self, folder: Path, catalog: Callable[[], LastCatalog], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._folder = folder
        self._catalog = catalog
        self._clock = clock
        self._every_s = _CATALOG_EVERY_S
        self._thread = ThreadPoolExecutor(1, "scribe")
        self._later: asyncio.TimerHandle | None = None

    def deployment(self, deployment: Deployment) -> None:
        """It serves. The catalog goes first: without one on the disk, nothing would be hidden."""
        self.catalog_now()
        self._thread.submit(remember, self._folder, deployment)

    def catalog_changed(self) -> None:
        """Written after a while, together with what else changes until then."""
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(self._every_s, self._write_catalog)

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
        self._thread.submit(self._remember_catalog, self._catalog())

    def _remember_catalog(self, catalog: LastCatalog) -> None:
        began = self._clock()
        remember_catalog(self._folder, catalog)
        self._every_s = max(_CATALOG_EVERY_S, _PAUSE * (self._clock() - began))
