"""Scenarios that leave the service as it is: steady load, a spike, a soak. The ramp is in `ramp`."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final

import typer

from .arrivals import Segment
from .memory import MemoryWatch
from .session import Session

Rate = Annotated[float, typer.Option(min=0.1, help="Requests a second.")]
Seconds = Annotated[float, typer.Option(min=1)]

_SHED: Final = "429"


@dataclass
class Steady:
    """One rate, for a while."""

    rate: Rate = 50.0
    seconds: Seconds = 30.0
    changes_service: ClassVar[bool] = False
    needs_service: ClassVar[bool] = True

    async def run(self, session: Session) -> None:
        async with session.clients() as clients:
            await session.load(clients, [Segment(self.rate, self.seconds)])

    def judge(self, session: Session) -> list[str]:
        return session.breaches(session.record.whole())


@dataclass
class Spike:
    """A rate, for a while another one, and again the first: is it over when it is over?

    The SLO counts before the spike, and again --recover-s after it. Meanwhile requests may be slow, and may be refused
    with 429, but not fail.
    """

    rate: Rate = 50.0
    peak: Annotated[float, typer.Option(min=0.1, help="Requests a second in the spike.")] = 500.0
    before_s: Seconds = 10.0
    spike_s: Seconds = 10.0
    recover_s: Annotated[float, typer.Option(min=0.5, help="How long after the spike it may still show.")] = 5.0
    after_s: Seconds = 10.0
    changes_service: ClassVar[bool] = False
    needs_service: ClassVar[bool] = True

    async def run(self, session: Session) -> None:
        segments = [
            Segment(self.rate, self.before_s, "before"),
            Segment(self.peak, self.spike_s, "spike"),
            Segment(self.rate, self.recover_s, "recovery"),
            Segment(self.rate, self.after_s, "after"),
        ]
        async with session.clients() as clients:
            await session.load(clients, segments)

    def judge(self, session: Session) -> list[str]:
        parts = session.record.parts
        names = ("before", "spike", "recovery", "after")
        session.findings.update({name: parts[name].summary() for name in names if name in parts})
        wrong = []
        for name in ("before", "after"):
            wrong += [f"{name} the spike: {breach}" for breach in session.breaches(session.record.part(name))]
        for name in ("spike", "recovery"):
            phase = session.record.part(name)
            failed = {what: count for what, count in phase.failures.items() if what != _SHED}
            wrong += [f"{name}: {count} answers: {what}" for what, count in phase.wrong.items()]
            if sum(failed.values()) > session.options.max_failures:
                wrong.append(f"{name}: requests failed otherwise than by 429: {failed}")
        return wrong


@dataclass
class Soak:
    """One rate for a long time: do memory or latency grow? The first quarter is compared with the last one."""

    rate: Rate = 50.0
    seconds: Annotated[float, typer.Option(min=8)] = 3600.0
    max_memory_growth: Annotated[float, typer.Option(min=1, help="Last quarter to first, medians.")] = 1.1
    max_latency_growth: Annotated[float, typer.Option(min=1, help="Last quarter to first, p50.")] = 1.5
    changes_service: ClassVar[bool] = False
    needs_service: ClassVar[bool] = True
    _memory: MemoryWatch | None = field(default=None, init=False)

    async def run(self, session: Session) -> None:
        self._memory = MemoryWatch.of(session.options.address, self.seconds)
        quarter = self.seconds / 4
        segments = [
            Segment(self.rate, quarter, "first quarter"),
            Segment(self.rate, 2 * quarter, "middle"),
            Segment(self.rate, quarter, "last quarter"),
        ]
        async with session.clients() as clients, self._memory.sampling():
            await session.load(clients, segments)

    def judge(self, session: Session) -> list[str]:
        first, last = (session.record.part(name) for name in ("first quarter", "last quarter"))
        latency = last.percentile_ms(50) / first.percentile_ms(50) if first.answered and last.answered else None
        memory = self._memory.growth() if self._memory else None
        session.findings.update(
            {"p50_growth": latency, "memory_growth": memory, "first quarter": first.summary()}
            | {"last quarter": last.summary(), "memory": self._memory.as_json() if self._memory else None}
        )
        wrong = session.breaches(session.record.whole())
        limits = (("memory", memory, self.max_memory_growth), ("p50", latency, self.max_latency_growth))
        wrong += [
            f"{what} grew {grew:.2f} ×, more than {most:g} ×" for what, grew, most in limits if grew and grew > most
        ]
        return wrong
