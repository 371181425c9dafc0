"""Which engines run, and where queries go: what Redis wants, as far as it can be had now.

Every version that is wanted has a `Life`, which keeps an engine of it ready. Whenever anything changes, the fleet works
out anew where queries should go, and tells the workers if that differs from what they were told last. So a version
takes over in one step: its engine is warm and proved, every worker has acknowledged it, and only then may the engine
before it go. Until then, and whatever fails on the way, that one never notices.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

from service.api.control import Routes
from service.machine import available_percent
from service.store import Deployment

from .board import Board
from .engine import Engine
from .life import Life, Start, Workshop
from .reading import Reading
from .tasks import Tasks, forever
from .turns import Turns

logger = logging.getLogger(__name__)

_MEMORY_S = 3.0  # between two looks
Key = tuple[str, bool]  # version, whether it runs in the background


class Switchboard(Protocol):
    """Who sends queries to engines."""

    async def route(self, routes: Routes) -> None:
        """Returns once nothing new is sent anywhere else. Numbers the routes itself."""


class Fleet:
    """Keeps an engine of every wanted version ready, and queries on the right ones."""

    def __init__(
        self,
        board: Board,
        switchboard: Switchboard,
        *,
        fetch: Callable[[str], Awaitable[Path]],
        start: Start,
        drain_timeout_s: float,
        reading: Reading | None = None,
        warm_previous: int = 0,
        warm_memory_percent: float = 0.0,
        memory: Callable[[], float] = available_percent,
    ) -> None:
        self._board = board
        self._switchboard = switchboard
        self._reading = reading
        self._warm_previous = warm_previous
        self._warm_memory_percent = warm_memory_percent
        self._memory = memory
        self._deployment: Deployment | None = None
        self._lives: dict[Key, Life] = {}
        self._serving: str | None = None
        self._confirmed: str | None = None  # what every worker has acknowledged last
        self._announced = Routes(0, None)
        self._squeezed: set[str] = set()  # earlier versions that memory was too short for
        self._turns = Turns(self._serves)
        self._workshop = Workshop(fetch, start, self._turns, self._pause, drain_timeout_s)
        self._nudged = asyncio.Event()
        self._changes = asyncio.Event()
        self._tasks = Tasks()
        self._duties = [self._tasks.run(forever(duty)) for duty in (self._conduct, self._watch_memory)]
        self.first_ready: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        self.on_switch: Callable[[Engine], None] = lambda _: None  # every worker has acknowledged a version
        self.on_death: Callable[[str], None] = lambda _: None  # an engine of this version ended unasked

    # ---- what is wanted

    def follow(self, deployment: Deployment) -> None:
        """From now on, as soon as it can be."""
        self._deployment = deployment
        self._squeezed.clear()
        self._enlist()
        self.changed()

    @property
    def versions(self) -> set[str]:
        """Everything that is run, or about to be."""
        return {version for version, _ in self._lives}

    def nudge(self) -> None:
        """Something has changed for the better: what waits to be tried again is tried now."""
        self._nudged.set()
        self._nudged = asyncio.Event()

    def changed(self) -> None:
        """Something that routes depend on is not what it was."""
        self._turns.move()
        self._changes.set()

    async def stop(self) -> None:
        """Drains and ends every engine."""
        for duty in self._duties:
            duty.cancel()
        lives, self._lives = list(self._lives.values()), {}
        for life in lives:
            self._tasks.run(life.end())
        await self._tasks.all_ended()

    def _wanted(self) -> Iterator[Key]:
        """Versions that must have an engine, the most important first."""
        if (deployment := self._deployment) is None:
            return
        if deployment.version is not None:
            yield deployment.version, False
        if deployment.canary is not None:
            yield deployment.canary.version, False
        for version in deployment.pinned:
            yield version, False
        if deployment.shadow is not None:
            yield deployment.shadow, True

    def _warm(self) -> Iterator[Key]:
        """Earlier versions whose engines stay, newest first; none is started for that."""
        previous = self._deployment.previous[: self._warm_previous] if self._deployment else ()
        for version in previous:
            life = self._lives.get((version, False))
            if life is not None and life.alive and version not in self._squeezed:
                yield version, False

    def _enlist(self) -> None:
        for version, background in self._wanted():
            if (version, background) not in self._lives:
                if self._board.status.model(version) is None:
                    self._board.model(version, "registered")
                life = Life(version, self._workshop, self, background=background)
                self._lives[version, background] = life
        active = self._deployment.version if self._deployment else None
        for (version, background), life in self._lives.items():
            life.urgent = not background and version in (active, self._serving)

    # ---- where queries go

    async def _conduct(self) -> None:
        """Once, when something has changed."""
        await self._changes.wait()
        self._changes.clear()
        self._choose()
        self._enlist()
        self._squeeze()
        kept = self._kept()
        routes = self._routes(kept)
        if routes != self._announced:
            self._announced = routes
            if routes.route is None or routes.route.info.model_version != self._board.serving_version:
                self._board.serving(None)  # until every worker has acknowledged it, none can be vouched for
            await self._switchboard.route(routes)
        self._confirm(routes)
        self._dismiss(kept)

    def _choose(self) -> None:
        """The wanted version serves as soon as it can; until then the one before it does."""
        wanted = self._deployment.version if self._deployment else None
        life = self._lives.get((wanted, False)) if wanted else None
        if life is not None and life.alive:
            self._serving = life.version

    def _serves(self) -> bool:
        life = self._serving_life
        return life is not None and life.alive

    @property
    def _serving_life(self) -> Life | None:
        return self._lives.get((self._serving, False)) if self._serving else None

    def _routes(self, kept: set[Key]) -> Routes:
        """What is to go is named no more, so that nobody asks it when it does."""
        ready = [life for key, life in self._lives.items() if life.alive and key in kept]
        canary = self._deployment.canary if self._deployment else None
        others = (life.route for life in ready if not life.background and life.version != self._serving)
        return Routes(
            0,
            self._serving_life.route if self._serving_life else None,
            others=tuple(route for route in others if route),
            canary=canary.version if canary else None,
            canary_percent=canary.percent if canary else 0.0,
            shadow=next((life.route for life in ready if life.background), None),
            reader=self._reading.route if self._reading else None,
        )

    def _confirm(self, routes: Routes) -> None:
        """Every worker has acknowledged `routes`."""
        life = self._serving_life
        if routes.route is None or life is None or life.engine is None or not life.alive:
            return
        self._board.serving(life.version)
        if self._confirmed == life.version:
            return
        self._confirmed = life.version
        self._board.swap("success")
        info = life.engine.route.info
        logger.info("model %s serves on %s in %s", life.version, info.provider, info.precision)
        if self._reading:
            self._reading.follow(life.engine.folder)
        if not self.first_ready.done():
            self.first_ready.set_result(life.engine)
        self.on_switch(life.engine)

    # ---- what may go

    def _kept(self) -> set[Key]:
        kept = {*self._wanted(), *self._warm()}
        return kept if self._serving is None else kept | {(self._serving, False)}

    def _dismiss(self, kept: set[Key]) -> None:
        """Whatever workers do not ask any more, unless it is wanted again meanwhile."""
        kept = kept | self._kept()
        if self._reading:
            self._reading.dismiss({version for version, _ in kept})
        for key in [key for key in self._lives if key not in kept]:
            self._tasks.run(self._lives.pop(key).end())
        self._step_down()

    def _step_down(self) -> None:
        """What has served and stays, only waits from now on."""
        for life in self._lives.values():
            row = self._board.status.model(life.version)
            if row and row.state == "active" and life.version != self._serving and not life.background:
                self.step(life, "ready")

    def _squeeze(self) -> None:
        """Where memory is short, the oldest of the engines that are only kept warm goes."""
        needed = {*self._wanted(), (self._serving, False)}
        only_warm = [key for key in self._warm() if key not in needed]
        if only_warm and self._memory() < self._warm_memory_percent:
            version, _ = only_warm[-1]
            logger.warning("memory is short: the engine of the earlier model %s is ended", version)
            self._squeezed.add(version)

    async def _watch_memory(self) -> None:
        await asyncio.sleep(_MEMORY_S)
        self.changed()

    # ---- what lives tell

    def step(self, life: Life, state: str, reason: str | None = None, retry_in_s: float | None = None) -> None:
        """Told to everybody, unless another life of the same version has more to say."""
        lives = (self._lives.get((life.version, False)), self._lives.get((life.version, True)))
        speaker = next((one for one in lives if one), life)
        if speaker is life:
            self._board.model(life.version, state, reason, retry_in_s, self._note(state))

    def _note(self, state: str) -> str | None:
        """Why a version is let go."""
        reason = self._deployment.reason if self._deployment else ""
        return reason if state == "draining" and "rollback" in reason else None

    def failed(self, life: Life) -> None:
        """Counts as a failed swap where the version was to serve."""
        if life.urgent:
            self._board.swap("failure")

    def died(self, life: Life) -> None:
        """Its own life starts a successor; nothing else is sent to it meanwhile."""
        self.changed()
        if not life.background:
            self.on_death(life.version)

    def restarts(self) -> None:
        self._board.restart()

    # ---- waiting

    async def _pause(self, seconds: float | None) -> None:
        """None: until something has changed for the better."""
        nudged = self._nudged
        try:
            async with asyncio.timeout(seconds):
                await nudged.wait()
        except TimeoutError:
            return
