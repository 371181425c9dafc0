"""Work that must not slow down whoever serves on this machine: a thread of lowest priority."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

LOWEST: Final = 19

Result = TypeVar("Result")


class Quietly(Protocol):
    """Calls something and returns what it returns, at whatever priority."""

    def __call__(self, call: Callable[[], Result], /) -> Result: ...


def at_once(call: Callable[[], Result], /) -> Result:
    """In this thread, at its own priority."""
    return call()


@contextmanager
def quiet_thread() -> Iterator[Quietly]:
    """One thread of lowest priority for as long as the context lasts; what it starts has that priority for good."""
    with ThreadPoolExecutor(1, "quiet", initializer=_lower) as thread:

        def quietly(call: Callable[[], Result], /) -> Result:
            return thread.submit(call).result()

        yield quietly


def _lower() -> None:
    """On Linux priorities are those of threads; no other thread of the process is touched."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
