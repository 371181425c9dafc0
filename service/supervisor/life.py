"""The life of one version on this replica: its engine is brought up, kept up, and let go."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

from models.errors import ModelError
from service.api.control import Route
from service.errors import ServiceError

from .backoff import Backoff
from .engine import Engine, StartError
from .tasks import tell_fault
from .turns import Turns

_FORESEEN: Final = (ServiceError, ModelError, StartError, OSError)

logger = logging.getLogger(__name__)


class Pace(Enum):
    """How much of the processor an engine takes."""

    AT_ONCE = "at once"  # it is to serve, and nothing does that its start could disturb
    QUIETLY = "quietly"  # what serves goes first until it is ready
    BACKGROUND = "in the background"  # what serves always goes first


class Start(Protocol):
    """Starts an engine on an artifact's folder."""

    def __call__(self, folder: Path, pace: Pace, on_stage: Callable[[str], None]) -> Coroutine[Any, Any, Engine]:
        """Returns when it is ready for queries; raises StartError, OSError. Cancelling leaves no process."""


@dataclass(frozen=True)
class Workshop:
    """What every life needs."""

    fetch: Callable[[str], Awaitable[Path]]
    start: Start
    turns: Turns
    pause: Callable[
        [float | None], Awaitable[None]
    ]  # cut short when something has changed for the better; None: by that only
    drain_timeout_s: float


class Observer(Protocol):
    """Who hears what happens to a version."""

    def step(self, life: "Life", state: str, reason: str | None = None, retry_in_s: float | None = None) -> None:
        """It is in `state`; with a `reason` something has failed."""

    def changed(self) -> None:
        """An engine is ready, or has gone."""

    def failed(self, life: "Life") -> None:
        """One attempt to get the first engine ready has failed."""

    def died(self, life: "Life") -> None:
        """A ready engine, or the successor of one, has ended unasked; `alive` and `hopeless` say what is left."""

    def restarts(self) -> None:
        """A successor is being started."""


class Life:
    """Keeps one engine of `version` ready until `end`. In the background: at low priority, for a shadow."""

    def __init__(self, version: str, workshop: Workshop, observer: Observer, *, background: bool = False) -> None:
        self.version = version
        self.background = background
        self.engine: Engine | None = None  # the last that was ready
        self.alive = False  # it still is
        self.hopeless = False  # it has died, and its successor could not be started either
        self.urgent = False
        self._workshop = workshop
        self._observer = observer
        self._starting: asyncio.Task[Engine] | None = None
        self._crashes = Backoff(immediate=True)
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(tell_fault)

    @property
    def route(self) -> Route | None:
        """Of the engine that is ready, or of a dead one that soon has a successor."""
        return self.engine.route if self.engine and not self.hopeless else None

    def give_way(self) -> None:
        """Breaks a start off; it is tried again when its turn comes."""
        if self._starting and not self._starting.cancelling():
            self._starting.cancel()

    async def end(self) -> None:
        """Lets the engine answer what is in flight; returns when no process is left."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.engine and self.alive:
            self._observer.step(self, "draining")
            await self.engine.drain(self._workshop.drain_timeout_s)
        self.alive = False
        self._observer.step(self, "unloaded")

    async def _live(self) -> None:
        engine = await self._first()
        while True:
            code = await engine.child.wait()
            logger.error("the engine of model %s died: %s", self.version, engine.child.last_sentence(code))
            self.alive = False
            self._observer.step(self, "restarting")
            self._observer.died(self)
            engine = await self._successor(engine.folder)

    async def _first(self) -> Engine:
        backoff = Backoff(immediate=False)
        while True:
            try:
                self._observer.step(self, "fetching")
                return await self._bring_up(await self._workshop.fetch(self.version))
            except Exception as error:
                pause_s = None if isinstance(error, StartError) and error.final else backoff.next_s()
                reason = _reason(error)
                then = "it is not tried again by itself" if pause_s is None else f"next attempt in {pause_s:.1f} s"
                logger.error("model %s failed: %s; %s", self.version, reason, then)
                self._observer.step(self, "failed", reason, pause_s)
                self._observer.failed(self)
                await self._workshop.pause(pause_s)

    async def _successor(self, folder: Path) -> Engine:
        """Of a dead engine, from the files that are on the disk already."""
        while True:
            await self._workshop.pause(self._crashes.next_s())
            self._observer.restarts()
            try:
                return await self._bring_up(folder)
            except Exception as error:
                reason = _reason(error)
                logger.error("model %s could not be started again: %s", self.version, reason)
                self.hopeless = True
                self._observer.step(self, "restarting", reason)
                self._observer.died(self)
                await self._mend()

    async def _bring_up(self, folder: Path) -> Engine:
        engine = None
        while engine is None:
            await self._workshop.turns.take(self)
            try:
                engine = await self._start(folder)
            finally:
                self._workshop.turns.leave(self)
        self.engine, self.alive, self.hopeless = engine, True, False
        self._observer.step(self, "ready")
        self._observer.changed()
        return engine

    async def _start(self, folder: Path) -> Engine | None:
        """None where another start was more urgent."""

        def on_stage(stage: str) -> None:
            if stage != "ready" and self._starting is starting:
                self._observer.step(self, stage)

        self._observer.step(self, "verifying")
        starting = asyncio.create_task(self._workshop.start(folder, self._pace(), on_stage))
        self._starting = starting
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            await _abandon(starting)
            raise
        finally:
            self._starting = None
        return None if starting.cancelled() else starting.result()

    def _pace(self) -> Pace:
        if self.background:
            return Pace.BACKGROUND
        return Pace.AT_ONCE if self.urgent and not self._workshop.turns.serves() else Pace.QUIETLY

    async def _mend(self) -> None:
        """The files on disk may be what is broken; a fetch checks them, and replaces them if Redis answers."""
        try:
            await self._workshop.fetch(self.version)
        except Exception as error:
            logger.warning("the files of model %s could not be checked: %s", self.version, _reason(error))


def _reason(error: Exception) -> str:
    """One sentence. What nobody foresaw is logged whole, and tried again like everything else."""
    if isinstance(error, _FORESEEN):
        return str(error)
    logger.error("a fault in the supervisor", exc_info=error)
    return f"a fault in the supervisor: {error!r}"


async def _abandon(starting: "asyncio.Task[Engine]") -> None:
    """No process stays, wherever in its start it was."""
    starting.cancel()
    await asyncio.wait([starting])
    if not starting.cancelled() and not starting.exception():
        await starting.result().child.kill()
