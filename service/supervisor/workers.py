"""The HTTP workers of a replica: kept alive on one listening socket, and told together where queries go."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from service.api.control import Acknowledge, Counts, Order, Report, Retry, Routes, Status, encode, read_report

from .backoff import Backoff
from .processes import Child

_ACKNOWLEDGE_S: Final = 10.0
_MOST_UNREAD_BYTES: Final = 32 * 1024 * 1024

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Connection:
    """One worker's control connection."""

    writer: asyncio.StreamWriter
    acknowledged: int = -1  # epoch

    def send(self, order: Order) -> None:
        """Lets go of a worker that has long read nothing: what it is not told yet must not fill the memory."""
        if self.writer.transport.get_write_buffer_size() > _MOST_UNREAD_BYTES:
            logger.error("a worker reads nothing any more")
            self.writer.transport.abort()
        elif not self.writer.is_closing():  # a worker that died a moment ago; its successor is told anew
            self.writer.write(encode(order))


class Workers:
    """Every worker knows the latest `Status` and `Routes`, also one that starts later."""

    def __init__(
        self,
        listener: socket.socket,
        control: Path,
        environment: Mapping[str, str],
        count: int,
        acknowledge_s: float = _ACKNOWLEDGE_S,
    ) -> None:
        self._listener = listener
        self._control = control
        self._environment = environment
        self._count = count
        self._acknowledge_s = acknowledge_s
        self._routes = Routes(0, None)
        self._status = Status()
        self.on_retry: Callable[[], None] = lambda: None
        self.on_counts: Callable[[Counts], None] = lambda _: None
        self._connections: set[Connection] = set()
        self._progress = asyncio.Event()
        self._children: set[Child] = set()
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._control)
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._count)]

    def tell(self, status: Status) -> None:
        self._status = status
        for connection in self._connections:
            connection.send(status)

    async def route(self, routes: Routes) -> None:
        """Returns once no worker sends new queries to an engine that `routes` does not name. Numbers them itself."""
        self._routes = msgspec.structs.replace(routes, epoch=self._routes.epoch + 1)
        for connection in self._connections:
            connection.send(self._routes)
        await self._all_acknowledged(self._routes.epoch)

    async def all_follow(self) -> None:
        """Returns once every worker has started and sends queries where the latest `Routes` say."""
        while len(self._connections) < self._count or self._behind(self._routes.epoch):
            await self._progress.wait()

    async def stop(self, timeout_s: float) -> None:
        """Drains and ends all workers; nobody listens any more."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._listener.close()  # who comes now is refused at once, and does not wait in a queue that nobody serves
        await asyncio.gather(*(child.stop(timeout_s) for child in self._children))
        self._server.close()

    async def _keep(self) -> None:
        """Runs one worker, and its successor when it dies."""
        backoff = Backoff(immediate=True)
        arguments = ["service.api", "--fd", str(self._listener.fileno()), "--control", str(self._control)]
        while True:
            try:
                child = await Child.spawn(arguments, self._environment, [self._listener.fileno()])
            except OSError as error:  # no memory or no process left, as there may be again
                reason = f"a worker could not be started: {error.strerror or error}"
            else:
                self._children.add(child)
                reason = f"worker {child.pid} died: {child.last_sentence(await child.wait())}"
                self._children.discard(child)
            pause_s = backoff.next_s()
            logger.error("%s; next in %.1f s", reason, pause_s)
            await asyncio.sleep(pause_s)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        connection.send(self._status)
        connection.send(self._routes)
        self._connections.add(connection)
        try:
            while report := await read_report(reader):
                self._hear(connection, report)
        except (OSError, ValueError, msgspec.MsgspecError, asyncio.IncompleteReadError) as error:
            logger.warning("a worker's control connection broke: %s", error)
        finally:
            self._connections.discard(connection)
            self._progressed()
            writer.close()

    def _hear(self, connection: Connection, report: Report) -> None:
        match report:
            case Acknowledge(epoch):
                connection.acknowledged = epoch
                self._progressed()
            case Retry():
                self.on_retry()
            case Counts():
                self.on_counts(report)

    def _progressed(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def _all_acknowledged(self, epoch: int) -> None:
        """A worker that does not acknowledge in time is let go: it drains when its connection ends, another starts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._acknowledge_s):
                while self._behind(epoch):
                    await self._progress.wait()
        for connection in self._behind(epoch):
            logger.error("a worker did not acknowledge a switch within %.0f s", self._acknowledge_s)
            connection.writer.transport.abort()  # closing would wait until it has read what it was told

    def _behind(self, epoch: int) -> list[Connection]:
        return [connection for connection in self._connections if connection.acknowledged < epoch]
