"""The highest rate that holds: growing by a factor until one does not, then bisection."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

_LOWEST: Final = 0.1


@dataclass
class Search:
    """Every rate that was tried, in requests a second, and whether it held. Readable while it goes on."""

    tried: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def highest(self) -> float:
        """The highest rate that held below all that did not; 0: none."""
        return max((rate for rate, held in self.tried if held and rate < self.lowest_that_failed), default=0.0)

    @property
    def lowest_that_failed(self) -> float:
        """Infinite while all held."""
        return min((rate for rate, held in self.tried if not held), default=math.inf)

    async def run(
        self, holds: Callable[[float], Awaitable[bool]], start: float, growth: float, precision: float, most: float
    ) -> None:
        """From `start` up (or down, if it does not hold) by the factor `growth`, at most to `most`, and then halving
        the bracket, on a logarithmic scale, until its ends differ by less than `precision` (0.05: 5 %).

        A rate that did not hold is tried once more before it counts, because one pause of the machine is no limit of
        the service.
        """
        while self.lowest_that_failed == math.inf and self.highest < most:
            await self._try(holds, min(max(start, self.highest * growth), most))
        while not self.highest and self.lowest_that_failed > _LOWEST:
            await self._try(holds, self.lowest_that_failed / growth)
        while self.highest and self.lowest_that_failed > self.highest * (1 + precision):
            if self.lowest_that_failed == math.inf:
                break
            await self._try(holds, math.sqrt(self.highest * self.lowest_that_failed))

    async def _try(self, holds: Callable[[float], Awaitable[bool]], rate: float) -> None:
        self.tried.append((rate, await holds(rate) or await holds(rate)))
