"""Tells the other replicas, through Redis, what this one does."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from service.api.control import Status
from service.errors import ServiceError, StoreReadOnly
from service.store import ReplicaReport, Store

_EVERY_S: Final = 1.0
_PAUSE_S: Final = 0.1  # after a report
_READY: Final = frozenset({"ready", "active"})

logger = logging.getLogger(__name__)


class Reporter:
    """Reports what has changed, some times a second, and every second that nothing has.

    In a thread, which may hang with Redis. Each report costs Redis a look at those of all replicas, and a busy catalog
    changes hundreds of times a second.
    """

    def __init__(
        self, store: Store, latest: Callable[[], ReplicaReport], on_refusal: Callable[[str | None], None]
    ) -> None:
        """Both are called in the thread, `on_refusal` when Redis begins to refuse reports (why), and when it no longer
        does (None)."""
        self._store = store
        self._latest = latest
        self._on_refusal = on_refusal
        self._refusal: str | None = None
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def changed(self) -> None:
        """There may be news."""
        self._changed.set()

    def stop(self) -> None:
        """Takes its leave, soon; waits for nothing."""
        self._stopped.set()
        self._changed.set()

    def _repeat(self) -> None:
        told: ReplicaReport | None = None
        while not self._stopped.is_set():
            woken = self._changed.wait(_EVERY_S)
            self._changed.clear()
            report = self._latest()
            if not woken or report != told:
                told = report if self._tell(report) else None
                self._stopped.wait(_PAUSE_S)
        with suppress(ServiceError, ValueError):  # redis-py raises that where the connection is closed meanwhile
            self._store.leave(self._latest().replica)

    def _tell(self, report: ReplicaReport) -> bool:
        try:
            self._store.report(report)
            self._refused(None)
        except StoreReadOnly as error:
            self._refused(str(error))
            return False
        except ServiceError as error:
            self._refused(None)  # who does not answer is noticed elsewhere
            logger.debug("this replica could not report: %s", error)
            return False
        except Exception:  # silent from then on, it would be missing where others wait for every replica
            logger.exception("a fault while reporting")
            return False
        return True

    def _refused(self, reason: str | None) -> None:
        if reason != self._refusal and not self._stopped.is_set():
            self._refusal = reason
            self._on_refusal(reason)


def describe(status: Status, address: str, serving: str | None) -> ReplicaReport:
    """What `status` means to others."""
    states = {model.version: model.state for model in status.models if model.state != "unloaded"}
    return ReplicaReport(
        replica=status.replica,
        address=address,
        epoch=status.active_epoch,
        serving=serving,
        ready_for=tuple(version for version, state in states.items() if state in _READY),
        catalog_revision=status.catalog_revision,
        states=states,
        draining=status.draining,
    )
