"""The same query once more, to a model nobody waits for: what would it have recommended?

A shadow must not slow a request down, so it is asked only where everything is idle, after the answer, and its own
answer is compared and forgotten.
"""

import asyncio
import logging
import time
from typing import Final

import msgspec

from service import metrics
from service.errors import ServiceError
from service.frames import Answer, Query

from .engine_link import EngineClient, EngineLost

_DEADLINE_S: Final = 5.0
_REST: Final = 4.0  # pauses for so many times as long as a query took, so that it works a fifth of the time at most

logger = logging.getLogger(__name__)


class Shadow:
    """At most one query of this worker is with the shadow's engine at a time."""

    def __init__(self) -> None:
        self.engine: EngineClient | None = None
        self._asking: asyncio.Task[None] | None = None
        self._rests_until = 0.0  # monotonic seconds

    def offer(self, query: Query, answer: Answer, *, idle: bool) -> None:
        """Asks the shadow too, unless anything else has work; returns at once and never raises."""
        engine = self.engine
        if engine is None:
            return
        if not idle or answer.waiting or engine.gone or self._busy:
            metrics.SHADOW_REQUESTS.labels("dropped").inc()
            return
        plain = msgspec.structs.replace(
            query, deadline=time.monotonic() + _DEADLINE_S, with_metadata=False, with_codes=False, with_explain=False
        )
        self._asking = asyncio.create_task(self._compare(engine, plain, answer))

    @property
    def _busy(self) -> bool:
        asking = self._asking is not None and not self._asking.done()
        return asking or time.monotonic() < self._rests_until

    async def close(self) -> None:
        if self._asking:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _compare(self, engine: EngineClient, query: Query, answer: Answer) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                found = await engine.ask(query)
        except (ServiceError, EngineLost, TimeoutError) as error:
            logger.debug("the shadow %s gave no answer: %s", engine.info.model_version, error)
            metrics.SHADOW_REQUESTS.labels("failed").inc()
            return
        finally:
            now = time.monotonic()
            self._rests_until = now + _REST * (now - began)
        metrics.SHADOW_REQUESTS.labels("compared").inc()
        if answer.item_ids:
            metrics.SHADOW_OVERLAP.observe(overlap(answer.item_ids, found.item_ids))


def overlap(served: list[str], shadow: list[str]) -> float:
    """Share of the served items, of which there is one at least, that the shadow returned too."""
    return len(set(served) & set(shadow)) / len(set(served))
