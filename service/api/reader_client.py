"""What is asked of the reader process: items, codes, and checks of catalog changes."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from service.errors import DeadlineExceeded, EngineFailed, NotReady
from service.frames import Reply

from .engine_client import Router
from .engine_link import Asked, EngineLost

_ATTEMPTS: Final = 2  # nothing a reader is asked changes anything, so its successor may be asked again

Wanted = TypeVar("Wanted", bound=Reply)


async def ask_reader(router: Router, make: Callable[[int], Asked], reply: type[Wanted], timeout_s: float) -> Wanted:
    """The reply, of this type, to what `make` makes with a query id.

    Raises NotReady where there is no reader, DeadlineExceeded, or what the reader's `Failure` stands for.
    """
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _attempts(router, make)
    except TimeoutError:
        raise DeadlineExceeded("the reader, which knows the items, did not answer before the deadline") from None
    if not isinstance(answer, reply):
        raise EngineFailed("the reader answered something else than it was asked")
    return answer


async def _attempts(router: Router, make: Callable[[int], Asked]) -> Reply:
    for _ in range(_ATTEMPTS):
        reader = router.reader
        if reader is None:
            break
        try:
            return await reader.request(make(router.next_id()))
        except EngineLost:
            pass
    raise NotReady("the reader, which knows the items, is not running; it starts with the model that serves")
