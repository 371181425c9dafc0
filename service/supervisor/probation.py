"""A version that has just taken over is watched for a while, and sent back where it answers badly."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.api.control import Counts
from service.errors import ServiceError, StoreUnavailable
from service.store import Deployment
from service.store.deployment import AUTOMATIC

from .aside import aside
from .tasks import Tasks

_DEATHS = 3
_AGAIN_S = 1.0  # after Redis was asked in vain
_PERCENT = 100.0
_REMEMBERED = 10_000  # answers of the version that serves, before older ones weigh less

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """When a version is sent back, as in `Settings`; a window of 0 s: never.

    Answers short of items count where they are more than under the version before: narrow filters find few in any.
    """

    window_s: float
    error_percent: float
    exhausted_percent: float
    min_requests: int


class _Shortness:
    """How many of a version's answers were short of items, the latest ones first and foremost."""

    def __init__(self) -> None:
        self.answers = 0.0
        self._exhausted = 0.0

    @property
    def percent(self) -> float:
        return _PERCENT * self._exhausted / self.answers

    def count(self, counts: Counts) -> None:
        if self.answers > _REMEMBERED:
            self.answers, self._exhausted = self.answers / 2, self._exhausted / 2
        self.answers += counts.answers
        self._exhausted += counts.exhausted


class Probation:
    """Sums what this replica's workers answered since it switched to a newly activated version."""

    def __init__(self, limits: Limits, roll_back: Callable[[str, str], object]) -> None:
        """`roll_back(version, reason)` is called in a thread; it may block, and raise ServiceError."""
        self._limits = limits
        self._roll_back = roll_back
        self._deployment: Deployment | None = None
        self._arrival: str | None = None  # the version that an activation has brought, until it serves
        self._version: str | None = None  # watched now
        self._until = 0.0
        self._answers = self._errors = self._exhausted = self._deaths = 0
        self._serving = _Shortness()
        self._usual = 0.0  # percent of answers short of items under the version before
        self._tasks = Tasks()

    def expect(self, deployment: Deployment) -> None:
        """What Redis says; the first time nothing is new."""
        before, self._deployment = self._deployment, deployment
        if before is not None and deployment.version != before.version:
            self._version = None
            back = "rollback" in deployment.reason  # what is left in one is no measure
            if not back and self._serving.answers >= self._limits.min_requests:
                self._usual = self._serving.percent
            self._serving = _Shortness()
            self._arrival = None if back else deployment.version

    def switched(self, version: str) -> None:
        """Every worker sends its queries to `version` from now on."""
        if version == self._arrival and self._limits.window_s > 0:
            self._version, self._until = version, time.monotonic() + self._limits.window_s
            self._answers = self._errors = self._exhausted = self._deaths = 0
        self._arrival = None

    def count(self, counts: Counts) -> None:
        """One worker's report."""
        if self._deployment and counts.version == self._deployment.version:
            self._serving.count(counts)
        if self._watches(counts.version):
            self._answers += counts.answers
            self._errors += counts.errors
            self._exhausted += counts.exhausted
            self._judge()

    def died(self, version: str) -> None:
        """An engine of `version` has ended unasked."""
        if self._watches(version):
            self._deaths += 1
            if self._deaths >= _DEATHS:
                self._send_back(f"the engine of {version} ended {self._deaths} times")

    def _watches(self, version: str) -> bool:
        return version == self._version and time.monotonic() <= self._until

    def _judge(self) -> None:
        if self._answers < self._limits.min_requests:
            return
        errors, short = (_PERCENT * count / self._answers for count in (self._errors, self._exhausted))
        of = f"% of {self._answers} answers of {self._version} were"
        if errors > self._limits.error_percent:
            self._send_back(f"{errors:.1f} {of} errors, the limit is {self._limits.error_percent:g} %")
        elif short - self._usual > self._limits.exhausted_percent:
            before = f"{self._usual:.1f} % under the version before"
            limit = f"the limit is {self._limits.exhausted_percent:g} % more"
            self._send_back(f"{short:.1f} {of} short of items and {before}, {limit}")

    def _send_back(self, why: str) -> None:
        assert self._version is not None
        version, self._version = self._version, None
        self._tasks.run(self._try(version, f"{AUTOMATIC}: {why}"))

    async def _try(self, version: str, reason: str) -> None:
        """Another replica or an operator may have been faster, or there may be nothing to go back to.

        Redis may be away just now, and `version` answers badly until it is back.
        """
        logger.error("%s", reason)
        while self._deployment and self._deployment.version == version:
            try:
                await aside(self._roll_back, version, reason)
                return
            except StoreUnavailable as error:
                logger.error("model %s cannot be rolled back yet: %s", version, error)
                await asyncio.sleep(_AGAIN_S)
            except ServiceError as error:
                logger.error("model %s was not rolled back: %s", version, error)
                return
