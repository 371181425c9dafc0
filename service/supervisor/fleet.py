"""Which engines run: the one that serves, its successor when it dies, and the version that is to take over.

A version takes over in one step: its engine is warm and proved, every worker has acknowledged it, and only then does
the old engine drain. Until then, and whatever fails on the way, the old one never notices.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from models.errors import ModelError
from service.api.control import Route
from service.errors import ServiceError

from .backoff import Backoff
from .board import Board
from .engine import Engine, StartError

logger = logging.getLogger(__name__)


class Switchboard(Protocol):
    """Who sends queries to engines."""

    async def route(self, route: Route | None) -> None:
        """Returns once nothing new is sent anywhere else."""


class Fleet:
    """Keeps one engine of the wanted version serving; `fetch` and `start` make its folder and its engine."""

    def __init__(
        self,
        board: Board,
        switchboard: Switchboard,
        *,
        fetch: Callable[[str], Awaitable[Path]],
        start: Callable[[Path], Awaitable[Engine]],
        drain_timeout_s: float,
    ) -> None:
        self._board = board
        self._switchboard = switchboard
        self._fetch = fetch
        self._start = start
        self._drain_timeout_s = drain_timeout_s
        self._serving: Engine | None = None
        self._wanted: str | None = None
        self._pursuit: asyncio.Task[None] | None = None
        self._guards: set[asyncio.Task[None]] = set()
        self._switching = asyncio.Lock()
        self._nudged = asyncio.Event()
        self._crashes = Backoff(immediate=True)
        self._running: set[asyncio.Task[Any]] = set()
        self.first_ready: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()

    def want(self, version: str) -> None:
        """Serve `version` from now on, as soon as it can be."""
        if self._pursuit:
            self._pursuit.cancel()
        self._wanted = version
        self._pursuit = self._run(self._pursue(version))

    def nudge(self) -> None:
        """Something has changed for the better: what waits to be tried again is tried now."""
        self._nudged.set()
        self._nudged = asyncio.Event()

    async def stop(self) -> None:
        """Drains and ends every engine."""
        serving, self._serving, self._wanted = self._serving, None, None
        for task in (self._pursuit, *self._guards):
            if task:
                task.cancel()
        if serving:
            self._run(self._retire(serving))
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    # ---- to another version

    async def _pursue(self, version: str) -> None:
        """Tries until `version` serves, or until it is cancelled because another one is wanted."""
        backoff = Backoff(immediate=False)
        try:
            while not self._serves(version):
                try:
                    await self._take_over(version)
                except (ServiceError, ModelError, StartError, OSError) as error:
                    await self._fail(version, str(error), backoff.next_s())
        except asyncio.CancelledError:
            if not self._serves(version):
                self._board.forget(version)
            raise

    async def _fail(self, version: str, reason: str, pause_s: float) -> None:
        logger.error("model %s failed: %s; next attempt in %.1f s", version, reason, pause_s)
        self._board.model(version, "failed", reason, pause_s)
        self._board.swap("failure")
        await self._pause(pause_s)

    def _serves(self, version: str) -> bool:
        return self._serving is not None and self._serving.version == version

    async def _take_over(self, version: str) -> None:
        self._board.model(version, "fetching")
        folder = await self._fetch(version)
        self._board.model(version, "loading")
        engine = await self._start(folder)
        await self._switch(engine, lambda: self._wanted == version)

    async def _switch(self, engine: Engine, still_wanted: Callable[[], bool]) -> None:
        """Not to be cut in half by whatever is wanted meanwhile."""
        await asyncio.shield(self._run(self._switch_whole(engine, still_wanted)))

    async def _switch_whole(self, engine: Engine, still_wanted: Callable[[], bool]) -> None:
        async with self._switching:
            retired: Engine | None = engine
            if still_wanted():
                retired, self._serving = self._serving, engine
                await self._announce(engine)
        if retired:
            self._run(self._retire(retired))

    async def _announce(self, engine: Engine) -> None:
        guard = self._run(self._guard(engine))
        self._guards.add(guard)
        guard.add_done_callback(self._guards.discard)
        await self._switchboard.route(engine.route)
        if engine.version != self._board.serving_version:
            self._crashes = Backoff(immediate=True)
            self._board.swap("success")
        self._board.serving(engine.version)
        logger.info("model %s serves on %s", engine.version, engine.route.info.provider)
        if not self.first_ready.done():
            self.first_ready.set_result(engine)

    async def _retire(self, engine: Engine) -> None:
        if not self._serves(engine.version):
            self._board.model(engine.version, "draining")
        await engine.drain(self._drain_timeout_s)
        if not self._serves(engine.version):
            self._board.forget(engine.version)

    # ---- when the engine that serves dies

    async def _guard(self, engine: Engine) -> None:
        code = await engine.child.wait()
        if engine is self._serving:
            logger.error("the engine of model %s died: %s", engine.version, engine.child.last_sentence(code))
            await self._replace(engine)

    async def _replace(self, dead: Engine) -> None:
        """Starts engines of the same version until one lives, or until another version has taken over."""
        self._board.model(dead.version, "restarting")
        while self._serving is dead:
            await self._pause(self._crashes.next_s())
            if self._serving is not dead:
                return
            self._board.restart()
            try:
                successor = await self._start(dead.folder)
            except (StartError, OSError) as error:
                logger.error("model %s could not be started again: %s", dead.version, error)
                self._board.model(dead.version, "restarting", str(error))
                await self._switchboard.route(None)
                await self._mend(dead.version)
                continue
            await self._switch(successor, lambda: self._serving is dead)

    async def _mend(self, version: str) -> None:
        """The files on disk may be what is broken; a fetch checks them, and replaces them if Redis answers."""
        try:
            await self._fetch(version)
        except (ServiceError, ModelError, OSError) as error:
            logger.warning("the files of model %s could not be checked: %s", version, error)

    # ---- waiting and remembering

    async def _pause(self, seconds: float) -> None:
        nudged = self._nudged
        try:
            async with asyncio.timeout(seconds):
                await nudged.wait()
        except TimeoutError:
            return

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a fault in the supervisor", exc_info=error)
