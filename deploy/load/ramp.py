"""The highest rate that holds the SLO: of the service, or of the clients against a server that only answers."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

import typer

from .arrivals import Segment
from .clients import Crew
from .echo import echo_server
from .phase import finite
from .saturation import Search
from .session import Session

Start = Annotated[float, typer.Option(min=0.1, help="First rate, requests a second.")]
Growth = Annotated[float, typer.Option(min=1.1, help="Factor from one rate to the next.")]
Precision = Annotated[float, typer.Option(min=0.005, help="Where bisection ends, relative.")]
Most = Annotated[float, typer.Option(min=1, help="No rate above this one.")]
Window = Annotated[float, typer.Option(min=0.5, help="How long a rate is applied after its warm-up.")]
AtLeast = Annotated[float, typer.Option(min=0, help="Exit code 1 if the rate found is lower.")]

_SAMPLES: Final = 200  # in a window whose p99 decides
_LONGEST_WINDOWS: Final = 4


@dataclass
class Hunt:
    """One search, with what was measured at each rate."""

    name: str
    window_s: float
    search: Search = field(default_factory=Search)
    details: dict[float, dict[str, Any]] = field(default_factory=dict)

    async def run(
        self, session: Session, address: str, start: float, growth: float, precision: float, most: float
    ) -> None:
        async with session.clients(address) as clients:

            async def holds(rate: float) -> bool:
                self.details[rate] = await self._measure(session, clients, rate)
                return not self.details[rate]["breaches"]

            await self.search.run(holds, start, growth, precision, most)

    def as_json(self) -> dict[str, Any]:
        highest, tried = self.search.highest, self.search.tried
        return {
            "highest_per_s": round(highest, 1),
            "at_highest": self.details.get(highest),
            "tried": [{"rate_per_s": round(rate, 1), "held": held} | self.details[rate] for rate, held in tried],
        }

    def decide(self, session: Session) -> None:
        """What is said of the clients is said of the highest rate that held."""
        if at := self.details.get(self.search.highest):
            session.client_busy, session.decisive = (
                at["client_busy"],
                session.record.part(self._part(self.search.highest)),
            )

    def _part(self, rate: float) -> str:
        return f"{self.name} at {rate:.1f}/s"

    async def _measure(self, session: Session, clients: Crew, rate: float) -> dict[str, Any]:
        part = self._part(rate)
        session.record.parts.pop(part, None)  # of an earlier attempt
        session.record.mark(part)
        seconds = min(max(self.window_s, _SAMPLES / rate), _LONGEST_WINDOWS * self.window_s)
        busy = await session.load(clients, [Segment(rate, seconds, part)])
        phase = session.record.part(part)
        return {
            "p50_ms": finite(phase.percentile_ms(50)),
            "p99_ms": finite(phase.percentile_ms(99)),
            "sent_late_p99_ms": finite(phase.late_ms(99)),
            "client_busy": busy,
            "breaches": session.breaches(phase),
        }


@dataclass
class _Hunter:
    """What both scenarios are told, and how they are judged: by the first hunt; the findings hold all of them."""

    start: Start = 20.0
    growth: Growth = 2.0
    precision: Precision = 0.05
    most: Most = 20_000.0
    window_s: Window = 5.0
    at_least: AtLeast = 0.0
    changes_service: ClassVar[bool] = False
    _hunts: list[Hunt] = field(default_factory=list, init=False)

    def judge(self, session: Session) -> list[str]:
        session.findings.update({hunt.name: hunt.as_json() for hunt in self._hunts})
        if self._hunts:
            self._hunts[0].decide(session)
        highest = self._hunts[0].search.highest if self._hunts else 0.0
        wrong = [f"{count} answers: {what}" for what, count in session.record.whole().wrong.items()]
        if not highest:
            wrong.append(f"no rate held p99 ≤ {session.options.slo_ms:g} ms")
        elif highest < self.at_least:
            wrong.append(f"the highest rate is {highest:.1f}/s, below {self.at_least:g}/s")
        return wrong

    async def _hunt(self, session: Session, name: str, address: str) -> None:
        self._hunts.append(Hunt(name, self.window_s))
        await self._hunts[-1].run(session, address, self.start, self.growth, self.precision, self.most)

    async def _hunt_clients(self, session: Session) -> None:
        async with echo_server(session.options.k) as address:
            await self._hunt(session, "clients", address)


@dataclass
class Ramp(_Hunter):
    """Finds the highest rate whose p99 is within --slo-ms: growing by a factor, then by bisection.

    Each rate is applied for --warm-up-s, which does not count, and --window-s (up to four times as long where that is
    fewer than 200 requests). With --echo the same clients then do the same against a server that only answers, which
    shows how far they themselves can go.
    """

    echo: Annotated[bool, typer.Option("--echo", help="Measure the clients alone too.")] = False
    needs_service: ClassVar[bool] = True

    async def run(self, session: Session) -> None:
        await self._hunt(session, "service", session.options.address)
        if self.echo:
            await self._hunt_clients(session)


@dataclass
class Clients(_Hunter):
    """The clients alone: the highest rate they reach against a server that only answers, found as in ramp."""

    start: Start = 100.0
    needs_service: ClassVar[bool] = False

    async def run(self, session: Session) -> None:
        await self._hunt_clients(session)
