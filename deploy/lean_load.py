"""What a lean client does in one block: so many questions in flight, or one at each of some moments.

A block ends with its last answer, or with BenchError at the first that is no recommendation: refusals are quick, so
that their rate says nothing, and where a process has died no more may come. Moments are those of the monotonic clock.
"""

import asyncio
import functools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import BenchError
from .lean_client import Ask


@dataclass
class Answers:
    """Of one block."""

    latencies: list[float] = field(default_factory=list)  # of all, seconds
    in_time: int = 0  # those that came before the block's end, and no others make a rate


async def keep_busy(ask: Ask, in_flight: int, *, count: int = 0, until: float = -math.inf) -> Answers:
    """Asks `count` times, or else as long as `until` has not come, with `in_flight` questions at any time."""
    block = _Block(ask, count, until)
    for _ in range(in_flight):
        block.start(time.monotonic())
    return await block.whole()


async def arrive(ask: Ask, moments: Iterable[float], begins: float) -> list[float]:
    """Asks at these seconds after `begins`, whatever the answers do; latencies, in seconds, count from then."""
    block = _Block(ask, count=0, until=-math.inf)
    for moment in moments:
        if (ahead := begins + moment - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        if block.ended.done():  # it has failed
            break
        block.start(begins + moment)
    return (await block.whole()).latencies


class _Block:
    """An answer makes it ask again until `count` questions are asked and `until` has come."""

    def __init__(self, ask: Ask, count: int, until: float) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ask, self._count, self._until = ask, count, until
        self._asked = self._open = 0
        self._all_begun = False
        self._answers = Answers()

    def start(self, due: float) -> None:
        self._asked += 1
        self._open += 1
        self._ask(self._asked, functools.partial(self._done, self._asked, due))

    async def whole(self) -> Answers:
        """Waits for what is on its way. Nothing is begun from outside any more."""
        self._all_begun = True
        if self._open or self.ended.done():
            await self.ended
        return self._answers

    def _done(self, number: int, due: float, good: bool) -> None:
        now = time.monotonic()
        self._open -= 1
        if self.ended.done():
            return
        if not good:
            self.ended.set_exception(BenchError(f"request {number} of a block was not answered by a recommendation"))
            return
        self._answers.latencies.append(now - due)
        self._answers.in_time += now < self._until
        if self._asked < self._count or now < self._until:
            self.start(now)
        elif self._all_begun and not self._open:
            self.ended.set_result(None)
