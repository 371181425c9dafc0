"""Work that must not slow down whoever serves on this machine.

On Linux two priorities decide who gets the processor, and both are lowered here: that of each thread, and, where the
kernel shares the processor out among sessions (`sched_autogroup_enabled`), that of the session, across which the
priorities of threads mean nothing. Every process of a replica has a session of its own.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeVar

NORMAL: Final = 0
LOW: Final = 10
LOWEST: Final = 19
_SESSION: Final = Path("/proc/self/autogroup")
_TRIES: Final = 100  # the kernel takes such a wish from an ordinary user at most ten times a second
_RETRY_S: Final = 0.1
_PATIENCE_S: Final = 20.0

Result = TypeVar("Result")


class Quietly(Protocol):
    """Calls something and returns what it returns, at whatever priority."""

    def __call__(self, call: Callable[[], Result], /) -> Result: ...


def at_once(call: Callable[[], Result], /) -> Result:
    """In this thread, at its own priority."""
    return call()


def lower_process(priority: int) -> None:
    """For as long as this process lives; to be called before it has more than one thread."""
    os.nice(priority)
    _give_session(priority)


@contextmanager
def quiet_thread(afterwards: int = NORMAL, patience_s: float = _PATIENCE_S) -> Iterator[Quietly]:
    """A thread of lowest priority for as long as the context lasts; what it starts has that priority for good.

    Meanwhile the whole process gives way to other sessions, and has priority `afterwards` among them in the end. Where
    no core is ever free, the lowest priority gets a hundredth of one: what is not done after `patience_s` goes on with
    a low one, unless it is to have the lowest for good.
    """
    haste = threading.Event()

    def hurry() -> None:
        _give_session(LOW)
        haste.set()

    with _thread(LOWEST) as lowest, _thread(LOW) as low:

        def quietly(call: Callable[[], Result], /) -> Result:
            return (low if haste.is_set() else lowest).submit(call).result()

        _give_session(LOWEST)
        timer = threading.Timer(patience_s, hurry)
        if afterwards < LOWEST:
            timer.start()
        try:
            yield quietly
        finally:
            timer.cancel()
            if timer.ident:
                timer.join()
            _give_session(afterwards)


def _thread(priority: int) -> ThreadPoolExecutor:
    """Priorities are those of threads; no other thread of the process is touched. None is raised, which not all may."""

    def lower() -> None:
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, max(priority, os.getpriority(os.PRIO_PROCESS, own)))

    return ThreadPoolExecutor(1, "quiet", lower)


def _give_session(priority: int) -> None:
    """Nothing where the kernel has no such priority, or where the session is not this process's own."""
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_TRIES):
        try:
            _SESSION.write_text(str(priority))
            return
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return
        time.sleep(_RETRY_S)
