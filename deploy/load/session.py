"""One run of one scenario: what it is given, and what it leaves."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

import httpx

from .admin import Admin
from .arrivals import WARM_UP, Segment
from .clients import Crew, Task, crew
from .options import Options
from .phase import Phase
from .record import Record


@dataclass
class Session:
    """`client` asks `options.address` and carries the token; `bodies` are what recommendations are asked with."""

    options: Options
    client: httpx.AsyncClient
    bodies: Sequence[dict[str, Any]]
    record: Record = field(default_factory=Record)
    findings: dict[str, Any] = field(default_factory=dict)  # of the scenario, for the report
    client_busy: float = 0.0  # the highest share of a processor that a client took while a plan lasted, 0 to 1
    decisive: Phase | None = None  # what the verdict rests on; None: on all of it
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    service: dict[str, Any] | None = None  # as `circumstances.service` has it
    interrupted: signal.Signals | None = None  # which one ended the test before its time
    trouble: list[str] = field(default_factory=list)  # what ended the test early

    @property
    def admin(self) -> Admin:
        return Admin(self.client)

    @asynccontextmanager
    async def clients(self, address: str | None = None, **task: Any) -> AsyncIterator[Crew]:
        """The client processes; `task` are fields of Task beside those that options say."""
        options = self.options
        tasks = [
            Task(address or options.address, self.bodies, seed, **task)
            for seed in range(options.seed * options.clients, (options.seed + 1) * options.clients)
        ]
        async with crew(tasks, self.record.origin, self.record.hear) as started:
            yield started

    async def load(self, clients: Crew, segments: Sequence[Segment]) -> float:
        """The segments after a warm-up at the rate of the first one; how busy the busiest client was, 0 to 1."""
        warm_up = Segment(segments[0].rate, self.options.warm_up_s, WARM_UP)
        try:
            await clients.follow([warm_up, *segments])
        finally:  # also where a signal ends it
            busy = round(clients.busy, 3)
            self.client_busy = max(self.client_busy, busy)
        return busy

    async def load_beside(self, clients: Crew, segments: Sequence[Segment], work: Coroutine[Any, Any, None]) -> None:
        """`load` while `work`, which does not end by itself, goes on; what it raises ends the load."""
        working, loading = asyncio.create_task(work), asyncio.create_task(self.load(clients, segments))
        try:
            await asyncio.wait({working, loading}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            await loading
        finally:
            for task in (working, loading):
                task.cancel()
            await asyncio.gather(working, loading, return_exceptions=True)

    def breaches(self, phase: Phase) -> list[str]:
        """Why `phase` does not hold the SLO, a sentence each; none: it does."""
        p99_ms, options = phase.percentile_ms(99), self.options
        wrong = [f"{count} answers: {what}" for what, count in phase.wrong.items()]
        if not phase.answered:
            return [*wrong, f"nothing was answered, {phase.failed} requests failed"]
        if p99_ms > options.slo_ms:
            wrong.append(f"p99 was {p99_ms} ms, above {options.slo_ms:g} ms")
        if phase.failed > options.max_failures:
            wrong.append(f"{phase.failed} requests failed, more than {options.max_failures}: {dict(phase.failures)}")
        return wrong


class Scenario(Protocol):
    """A dataclass whose fields are the scenario's own options."""

    changes_service: ClassVar[bool]  # whether it needs the token
    needs_service: ClassVar[bool]

    async def run(self, session: Session) -> None:
        """Applies the load; may be cancelled at any time, and then puts back what it changed."""

    def judge(self, session: Session) -> list[str]:
        """Why the SLO does not hold, by what there is after `run`, whole or cancelled; fills `session.findings`."""
