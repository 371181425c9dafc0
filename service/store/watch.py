"""Following the active version through everything that can happen to Redis."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..errors import StoreError
from .activation import Activation
from .connection import Connection
from .records import Active

_SLICE_S: Final = 0.1  # how late a stop may be noticed


@dataclass(frozen=True)
class StoreDown:
    """Redis does not answer, or not with sense. What is served stays what it was."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """Redis answers, but the active version that was there is gone, as after a flush. Keep serving `last`."""

    last: Active


Sighting = Active | Lost | StoreDown | None
"""What a look at Redis finds; None: nothing has ever been active."""


@dataclass
class Watcher:
    """Looks whenever a change is announced, and every `poll_s` because announcements get lost in reconnects."""

    redis: Connection
    activation: Activation
    channel: str
    poll_s: float
    last_active: Active | None = None
    _listener: Any = None

    def sightings(self, stop: threading.Event) -> Iterator[Sighting]:
        """The first sighting, then each that differs from the one before; ends after `stop` is set. Never raises."""
        try:
            seen = self._look()
            yield seen
            while not stop.is_set():
                self._wait(stop)
                found = self._look()
                if not _same(seen, found):
                    seen = found
                    yield seen
        finally:
            self._hang_up()

    def _look(self) -> Sighting:
        try:
            self._listen()  # before reading, so that no change falls between
            found = self.activation.read()
        except StoreError as error:
            self._hang_up()
            return StoreDown(str(error))
        if found is None and self.last_active is not None:
            return Lost(self.last_active)
        self.last_active = found
        return found

    def _listen(self) -> None:
        if self._listener is None:
            listener = self.redis.ask(lambda client: client.pubsub())
            self._listener = listener
            self.redis.ask(lambda _: listener.subscribe(self.channel))

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


def _same(one: Sighting, other: Sighting) -> bool:
    if isinstance(one, StoreDown) and isinstance(other, StoreDown):
        return True  # an outage is one event, however its reason changes
    return one == other
