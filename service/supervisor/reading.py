"""The reader of the version that serves: started after a switch, restarted when it dies, and never waited for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from service.api.control import Route

from .backoff import Backoff
from .engine import Engine
from .tasks import Tasks

logger = logging.getLogger(__name__)


class Reading:
    """Keeps one reader of the artifact it follows; the one before it answers until it is ready.

    A reader from before stays as long as engines of its version do, so that a way back starts nothing.
    """

    def __init__(self, start: Callable[[Path], Awaitable[Engine]], drain_timeout_s: float) -> None:
        """`start` returns a reader that is ready; raises StartError, OSError, and leaves no process when cancelled."""
        self._start = start
        self._drain_timeout_s = drain_timeout_s
        self._reader: Engine | None = None
        self._past: list[Engine] = []  # nobody is sent to them any more after `dismiss`
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

    def dismiss(self, kept: Collection[str] = ()) -> None:
        """Nobody asks the readers before the present one any more; those of the versions `kept` stay."""
        staying = [reader for reader in self._past if reader.version in kept and reader.child.running]
        for reader in self._past:
            if reader not in staying:
                self._tasks.run(reader.drain(self._drain_timeout_s))
        self._past = staying

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
                reader = self._kept(folder) or await self._start(folder)
                self._change(reader)
                reason = reader.child.last_sentence(await reader.child.wait())
                self._change(None)
            except Exception as error:  # whatever it was, a reader is worth another attempt
                reason = str(error) or repr(error)
            pause_s = backoff.next_s()
            logger.error("the reader of %s ended: %s; next in %.1f s", folder.name, reason, pause_s)
            await asyncio.sleep(pause_s)

    def _kept(self, folder: Path) -> Engine | None:
        """A reader of that artifact from before, in use still, as after a change that was taken back, or again."""
        for reader in [*([self._reader] if self._reader else []), *self._past]:
            if reader.folder == folder and reader.child.running:
                return reader
        return None

    def _change(self, reader: Engine | None) -> None:
        if self._reader and self._reader is not reader:
            self._past.append(self._reader)
        if reader in self._past:
            self._past.remove(reader)
        self._reader = reader
        self.on_change()
