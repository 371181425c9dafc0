"""What is asked of the reader process: items, codes, and checks of catalog changes."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import TypeVar

from service.errors import DeadlineExceeded, EngineFailed, NotReady
from service.frames import Reply, Request

from .control import Route
from .engine_connection import EngineClient, EngineLost

_ATTEMPTS = 2  # nothing a reader is asked changes anything, so a lost reader's successor may be asked again

Wanted = TypeVar("Wanted", bound=Reply)

logger = logging.getLogger(__name__)


class ReaderClient:
    """One connection to the reader of the version that serves; made when it is needed first, and again after a loss."""

    def __init__(self) -> None:
        self._route: Route | None = None
        self._client: EngineClient | None = None
        self._connecting = asyncio.Lock()
        self._ids = itertools.count(1)

    @property
    def present(self) -> bool:
        """Whether there is a reader to ask."""
        return self._route is not None

    def switch(self, route: Route | None) -> None:
        """Asks this reader from now on; None: there is none. What is in flight is still answered by the old one."""
        if route == self._route:
            return
        self._route = route
        if self._client is not None:
            self._client.retire()
            self._client = None

    async def close(self) -> None:
        client, self._client, self._route = self._client, None, None
        if client is not None:
            await client.close()

    async def ask(self, make: Callable[[int], Request], reply: type[Wanted], timeout_s: float) -> Wanted:
        """The reply, of this type, to what `make` makes with a query id.

        Raises NotReady where there is no reader, DeadlineExceeded, or what the reader's `Failure` stands for.
        """
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._attempts(make)
        except TimeoutError:
            raise DeadlineExceeded("the reader did not answer before the deadline") from None
        if not isinstance(answer, reply):
            raise EngineFailed("the reader answered something else than it was asked")
        return answer

    async def _attempts(self, make: Callable[[int], Request]) -> Reply:
        for _ in range(_ATTEMPTS):
            try:
                return await (await self._connected()).request(make(next(self._ids)))
            except EngineLost:
                pass
        raise NotReady("the process that knows the items has ended, and its successor is starting")

    async def _connected(self) -> EngineClient:
        async with self._connecting:
            if self._route is None:
                raise NotReady("no model is loaded whose items could be asked for; /health/ready says why")
            if self._client is None or self._client.gone:
                self._client = await self._connect(self._route)
            return self._client

    async def _connect(self, route: Route) -> EngineClient:
        try:
            return await EngineClient.connect(route)
        except OSError as error:
            logger.warning("the reader of %s cannot be reached: %s", route.info.model_version, error)
            raise NotReady("the process that knows the items cannot be reached; it is being started again") from None
