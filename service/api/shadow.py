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

logger = logging.getLogger(__name__)


class Shadow:
    """At most one query of this worker is with the shadow's engine at a time."""

    def __init__(self) -> None:
        self.engine: EngineClient | None = None
        self._asking: asyncio.Task[None] | None = None

    def offer(self, query: Query, answer: Answer, *, idle: bool) -> None:
        """Asks the shadow too, unless anything else has work; returns at once and never raises."""
        engine = self.engine
        if engine is None:
            return
        if not idle or answer.waiting or engine.gone or (self._asking and not self._asking.done()):
            metrics.SHADOW_REQUESTS.labels("dropped").inc()
            return
        plain = msgspec.structs.replace(
            query, deadline=time.monotonic() + _DEADLINE_S, with_metadata=False, with_codes=False, with_explain=False
        )
        self._asking = asyncio.create_task(self._compare(engine, plain, answer))

    async def close(self) -> None:
        if self._asking:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _compare(self, engine: EngineClient, query: Query, answer: Answer) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                found = await engine.ask(query)
        except (ServiceError, EngineLost, TimeoutError) as error:
            logger.debug("the shadow %s gave no answer: %s", engine.info.model_version, error)
            metrics.SHADOW_REQUESTS.labels("failed").inc()
            return
        metrics.SHADOW_REQUESTS.labels("compared").inc()
        if answer.item_ids:
            metrics.SHADOW_OVERLAP.observe(overlap(answer.item_ids, found.item_ids))


def overlap(served: list[str], shadow: list[str]) -> float:
    """Share of the served items, of which there is one at least, that the shadow returned too."""
    return len(set(served) & set(shadow)) / len(set(served))
