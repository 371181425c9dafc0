"""Following the deployment and the catalog through everything that can happen to Redis."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..errors import StoreError
from .catalog import CatalogRecords, CatalogSighting
from .connection import Connection
from .deployment import Deployment, Deployments
from .keys import Keys

_SLICE_S: Final = 0.1  # how late a stop may be noticed


@dataclass(frozen=True)
class StoreDown:
    """Redis does not answer, or not with sense. What is served stays what it was."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """Redis answers, but the active version that was there is gone, as after a flush. Keep serving `last`."""

    last: Deployment


Sighting = Deployment | Lost | StoreDown | None | CatalogSighting
"""What a look at Redis finds; None: there has never been a deployment."""


@dataclass
class Watcher:
    """Looks whenever a change is announced, and every `poll_s` because announcements get lost in reconnects."""

    redis: Connection
    keys: Keys
    poll_s: float
    last_deployment: Deployment | None = None
    _told: Deployment | Lost | StoreDown | None = StoreDown("nothing was told yet")
    _down: bool = False
    _catalog: tuple[int, str] | None = None  # revision and era told last
    _catalog_lost: bool = False  # told
    _listener: Any = None

    def sightings(self, stop: threading.Event) -> Iterator[Sighting]:
        """The deployment, the whole catalog, then each change; ends after `stop` is set. Never raises.

        An outage is told once, and after it the deployment again, changed or not.
        """
        try:
            yield from self._news()
            while not stop.is_set():
                self._wait(stop)
                yield from self._news()
        finally:
            self._hang_up()

    def _news(self) -> Iterator[Sighting]:
        """What one look finds that was not told yet. A catalog that cannot be read does not hide a deployment."""
        deployment = self._look()
        if isinstance(deployment, StoreDown):
            yield from self._outage(deployment)
            return
        if deployment != self._told:
            self._told, self._down = deployment, False
            yield deployment
        catalog = self._look_at_catalog()
        if isinstance(catalog, StoreDown):
            yield from self._outage(catalog)
            return
        if self._down:
            self._down = False
            yield deployment
        if catalog is not None:
            yield catalog

    def _outage(self, down: StoreDown) -> Iterator[StoreDown]:
        """An outage is one event, however its reason changes."""
        if not self._down:
            self._down = True
            yield down

    def _look(self) -> Deployment | Lost | StoreDown | None:
        try:
            self._listen()  # before reading, so that no change falls between
            found = Deployments(self.redis, self.keys).read()
        except StoreError as error:
            self._hang_up()
            return StoreDown(str(error))
        if found is None and self.last_deployment is not None and self.last_deployment.version is not None:
            return Lost(self.last_deployment)
        self.last_deployment = found
        return found

    def _look_at_catalog(self) -> CatalogSighting | StoreDown | None:
        """None where nothing is new. Where Redis has lost the catalog that is told once, as revision 0 without records:
        what is known of it stays."""
        catalog = CatalogRecords(self.redis, self.keys)
        try:
            now = catalog.state()
            lost, told = now[0] == 0 and self._catalog is not None and self._catalog[0] > 0, self._catalog_lost
            self._catalog_lost = lost
            if lost and not told:
                return CatalogSighting(0, [])
            if lost or (now == self._catalog and not told):
                return None
            found = catalog.since(*(self._catalog or (0, None)))
        except StoreError as error:
            return StoreDown(str(error))
        self._catalog = found.revision, found.era
        return found

    def _listen(self) -> None:
        if self._listener is None:
            listener = self.redis.ask(lambda client: client.pubsub())
            self._listener = listener
            self.redis.ask(lambda _: listener.subscribe(self.keys.changes, self.keys.catalog_changes))

    def _wait(self, stop: threading.Event) -> None:
        """Until a change is announced, `poll_s` have passed, or `stop` is set."""
        until = time.monotonic() + self.poll_s
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if self._listener is None:
                stop.wait(min(left, _SLICE_S))
            elif self._heard(min(left, _SLICE_S)):
                return

    def _heard(self, timeout_s: float) -> bool:
        """True for a reason to look: an announcement, or a subscription that was made, made again, or broke.

        redis-py subscribes again by itself after a reconnect, and what was announced meanwhile is lost.
        """
        try:
            return self.redis.ask(lambda _: self._listener.get_message(timeout=timeout_s)) is not None
        except StoreError:
            self._hang_up()
            return True

    def _hang_up(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
