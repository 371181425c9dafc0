"""Watching a store from a thread, as a replica does."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.store import CatalogSighting, Deployment, Lost, Store, StoreDown

NEVER_S = 3600.0  # a poll that does not come: what is seen was announced
SOON_S = 0.05
WAIT_S = 20.0


@dataclass
class Seen:
    """Sightings as they come, those of the catalog apart."""

    deployments: "queue.Queue[Deployment | Lost | StoreDown | None]" = field(default_factory=queue.Queue)
    catalog: "queue.Queue[CatalogSighting]" = field(default_factory=queue.Queue)

    def get(self, timeout: float = WAIT_S) -> Deployment | Lost | StoreDown | None:
        return self.deployments.get(timeout=timeout)

    def get_catalog(self, timeout: float = WAIT_S) -> CatalogSighting:
        return self.catalog.get(timeout=timeout)

    def empty(self) -> bool:
        return self.deployments.empty()


@contextmanager
def watching(store: Store, poll_s: float) -> Iterator[Seen]:
    """From a thread that has ended when the block ends."""
    stop, seen = threading.Event(), Seen()

    def follow() -> None:
        for sighting in store.watch(stop, poll_s):
            if isinstance(sighting, CatalogSighting):
                seen.catalog.put(sighting)
            else:
                seen.deployments.put(sighting)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()
