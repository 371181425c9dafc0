"""Calls that block, each in a thread of its own that holds up neither the event loop nor the end of the process."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def aside(call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """What `call` returns or raises.

    A thread of a pool would be waited for when the process ends, and a fetch of a large model takes minutes.
    """
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()  # from now on it ends however it ends, though nobody may wait for it any more

    def run() -> None:
        try:
            done.set_result(call(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await asyncio.wrap_future(done)
