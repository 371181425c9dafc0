"""The reader of the version that serves: started after a switch, restarted when it dies, and never waited for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from service.api.control import Route

from .backoff import Backoff
from .engine import Engine
from .tasks import Tasks

logger = logging.getLogger(__name__)


class Reading:
    """Keeps one reader of the artifact it follows; the one before it answers until it is ready."""

    def __init__(self, start: Callable[[Path], Awaitable[Engine]], drain_timeout_s: float) -> None:
        """`start` returns a reader that is ready; raises StartError, OSError, and leaves no process when cancelled."""
        self._start = start
        self._drain_timeout_s = drain_timeout_s
        self._reader: Engine | None = None
        self._past: list[Engine] = []
        self._keeper: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self.on_change: Callable[[], None] = lambda: None  # `route` is another one

    @property
    def route(self) -> Route | None:
        """Of a reader that is ready."""
        return self._reader.route if self._reader else None

    def follow(self, folder: Path) -> None:
        """The artifact of the version that serves from now on."""
        before, self._keeper = self._keeper, asyncio.create_task(self._keep(folder))
        if before:
            before.cancel()

    def dismiss(self) -> None:
        """Nobody asks the readers before the present one any more."""
        past, self._past = self._past, []
        for reader in past:
            self._tasks.run(reader.drain(self._drain_timeout_s))

    async def stop(self) -> None:
        """Ends every reader."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._change(None)
        self.dismiss()
        await self._tasks.all_ended()

    async def _keep(self, folder: Path) -> None:
        backoff = Backoff(immediate=True)
        while True:
            try:
                reader = await self._start(folder)
                self._change(reader)
                reason = reader.child.last_sentence(await reader.child.wait())
                self._change(None)
            except Exception as error:  # whatever it was, a reader is worth another attempt
                reason = str(error) or repr(error)
            pause_s = backoff.next_s()
            logger.error("the reader of %s ended: %s; next in %.1f s", folder.name, reason, pause_s)
            await asyncio.sleep(pause_s)

    def _change(self, reader: Engine | None) -> None:
        if self._reader:
            self._past.append(self._reader)
        self._reader = reader
        self.on_change()
