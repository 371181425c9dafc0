"""Work for a client ends when the client goes."""

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Receive

_PATIENCE_S: Final = 0.05


class WhileConnected:
    """Cancels the block, and raises ClientDisconnect, when the client goes; the request's body must have been read.

    The client is watched only once the block has taken a while: most never do, and a task costs more than they save.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._patience = asyncio.get_running_loop().call_later(_PATIENCE_S, self._start)

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        self._patience.cancel()
        if self._watcher is None:
            return
        gone = self._watcher.done()
        self._watcher.cancel()
        if gone and isinstance(error, asyncio.CancelledError) and not self._task.uncancel():
            raise ClientDisconnect from None

    def _start(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._task.cancel()
