"""Several client processes that load one service together, and one place where what they saw comes together.

The processes are spawned, not forked, and hold no more than one `Load` each. They are told plans (segments and when
they begin, by the clock that all processes of a machine share) and send what they counted since their last report.
"""

import asyncio
import multiprocessing
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

import uvloop

from .arrivals import Segment, shared
from .checks import Check, FaithfulUsers, Sighting, Watch
from .lanes import Lanes
from .phase import Phase
from .traffic import Load

WINDOW_S: Final = 0.5  # what is counted together; several make one window of a plot
_REPORT_S: Final = 0.25
_LEAD_S: Final = 0.2  # until every client has its plan
_START_LIMIT_S: Final = 60.0
_END_LIMIT_S: Final = 5.0


@dataclass(frozen=True)
class Task:
    """What a client process is, for all its plans."""

    address: str
    bodies: Sequence[dict[str, Any]]
    seed: int
    known: Mapping[tuple[str, int], list[list[str]]] = field(default_factory=dict)
    watched: frozenset[str] = frozenset()
    users: int = 0


@dataclass(frozen=True)
class Plan:
    """Segments from `begins` on; `origin` is where windows are counted from. Both of the monotonic clock, seconds."""

    segments: Sequence[Segment]
    begins: float
    origin: float


@dataclass(frozen=True)
class Report:
    """What one client counted since its last report."""

    counted: dict[tuple[float, str], Phase]  # (start of the window after the origin in seconds, part) → counts
    sightings: list[Sighting]
    cpu_s: float  # of the whole process so far
    done: bool  # whether the plan has ended and every answer has come


def client_process(pipe: "Connection[Any, Any]", task: Task) -> None:
    """Runs plans from `pipe` until it says None or is closed; what ends a whole group of processes is the parent's."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    uvloop.run(_Client(pipe, task).run())


class _Client:
    def __init__(self, pipe: "Connection[Any, Any]", task: Task) -> None:
        self._pipe = pipe
        self._watch = Watch(task.watched)
        checks: list[Check] = [FaithfulUsers(), *([self._watch] if task.watched else [])]
        self._load = Load([task.address], task.bodies, task.seed, checks=checks, users=task.users)
        self._load.known.by_version.update(task.known)
        self._counted: dict[tuple[float, str], Phase] = {}

    async def run(self) -> None:
        lanes = Lanes()
        with _messages(self._pipe) as plans:
            self._pipe.send(time.process_time())  # it is there, and this is what that took
            plan = await plans.get()
            while plan is not None:
                plan = await self._follow(lanes, plan, plans)
        await lanes.aclose()

    async def _follow(self, lanes: Lanes, plan: Plan, plans: "asyncio.Queue[Any]") -> Plan | None:
        """Returns the next plan, which may come while this one lasts and ends it."""
        stop = asyncio.Event()
        arriving = asyncio.create_task(
            self._load.arrive(lanes, plan.segments, plan.begins, lambda *at: self._phase(plan, *at), stop)
        )
        news = asyncio.create_task(plans.get())
        while not arriving.done():
            await asyncio.wait({arriving, news} - {task for task in (news,) if news.done()}, timeout=_REPORT_S,
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            if news.done():
                stop.set()
            self._report(done=False)
        await arriving
        self._report(done=True)
        following: Plan | None = await news
        return following

    def _phase(self, plan: Plan, moment: float, part: str) -> Phase:
        window = (plan.begins + moment - plan.origin) // WINDOW_S
        return self._counted.setdefault((window * WINDOW_S, part), Phase())

    def _report(self, done: bool) -> None:
        counted, self._counted = self._counted, {}
        self._pipe.send(Report(counted, self._watch.take(), time.process_time(), done))


@dataclass
class Crew:
    """The client processes, seen from the one that started them."""

    pipes: Sequence["Connection[Any, Any]"]
    inboxes: Sequence["asyncio.Queue[Any]"]
    origin: float
    hear: Callable[[Report], None]
    cpu_s: list[float]
    busy: float = 0.0  # the share of a processor that the busiest client took during the last plan, 0 to 1

    async def follow(self, segments: Sequence[Segment]) -> None:
        """Until all of it has been asked and answered; raises RuntimeError where a client ended."""
        before, begun = list(self.cpu_s), time.monotonic()
        plan = Plan(shared(segments, len(self.pipes)), begun + _LEAD_S, self.origin)
        for pipe in self.pipes:
            pipe.send(plan)
        try:
            await asyncio.gather(*(self._until_done(number) for number in range(len(self.pipes))))
        finally:
            self.busy = busiest(before, self.cpu_s, time.monotonic() - begun)

    async def end(self) -> None:
        """Clients stop; what they have counted so far is heard."""
        for number, pipe in enumerate(self.pipes):
            try:
                pipe.send(None)
                async with asyncio.timeout(_END_LIMIT_S):
                    while (report := await self.inboxes[number].get()) is not None:
                        self._hear(number, report)
            except (OSError, TimeoutError):
                continue

    async def _until_done(self, number: int) -> None:
        while True:
            report = await self.inboxes[number].get()
            if report is None:
                raise RuntimeError("a client process ended unexpectedly")
            self._hear(number, report)
            if report.done:
                return

    def _hear(self, number: int, report: Report) -> None:
        self.cpu_s[number] = report.cpu_s
        self.hear(report)


def busiest(before_s: Sequence[float], after_s: Sequence[float], seconds: float) -> float:
    """The largest share of a processor that one client took, 0 to 1; the processor times of each of them so far."""
    return max(after - before for before, after in zip(before_s, after_s, strict=True)) / seconds


@asynccontextmanager
async def crew(tasks: Sequence[Task], origin: float, hear: Callable[[Report], None]) -> AsyncIterator[Crew]:
    """Starts a process for each task; `hear` is called with everything they report. They end with the block."""
    spawn = multiprocessing.get_context("spawn")
    ends = [spawn.Pipe() for _ in tasks]
    processes = [
        spawn.Process(target=client_process, args=(theirs, task), daemon=True)
        for (_, theirs), task in zip(ends, tasks, strict=True)
    ]
    for process, (_, theirs) in zip(processes, ends, strict=True):
        process.start()
        theirs.close()  # so that this end hears when the process ends
    try:
        with ExitStack() as stack:
            inboxes = [stack.enter_context(_messages(ours)) for ours, _ in ends]
            async with asyncio.timeout(_START_LIMIT_S):
                cpu_s = [await inbox.get() or 0.0 for inbox in inboxes]
            started = Crew([ours for ours, _ in ends], inboxes, origin, hear, cpu_s)
            try:
                yield started
            finally:
                await started.end()
    finally:
        try:
            for process in processes:
                await asyncio.to_thread(process.join, _END_LIMIT_S)
        finally:
            for process in processes:
                process.kill()


@contextmanager
def _messages(pipe: "Connection[Any, Any]") -> Iterator["asyncio.Queue[Any]"]:
    """What comes out of `pipe`, as this event loop hears of it; None once it is closed."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def take() -> None:
        try:
            queue.put_nowait(pipe.recv())
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            queue.put_nowait(None)

    loop.add_reader(pipe.fileno(), take)
    try:
        yield queue
    finally:
        loop.remove_reader(pipe.fileno())
