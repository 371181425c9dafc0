"""`python -m service.api --fd N --control PATH`: one HTTP worker of a supervisor's replica.

It serves on the listening socket it inherited, follows the supervisor's orders, and drains when SIGTERM comes or when
the supervisor has gone.
"""

import argparse
import asyncio
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from service import metrics
from service.errors import SettingsError
from service.garbage import spare_the_old
from service.log_format import configure_logging
from service.settings import Settings

from .app import create_app
from .control import Acknowledge, Report, Retry, Routes, encode, read_order
from .edge import count_from_zero
from .engine_client import Router
from .http_protocol import HttpProtocol
from .tracing import Tracing, start_tracing

_OPEN_FILES = 65_536  # a connection is one
_KEEP_ALIVE_S = 75  # above the idle timeout of usual load balancers, so that they close first
_LAG_INTERVAL_S = 0.1
_COUNTS_INTERVAL_S = 1.0

logger = logging.getLogger(__name__)


def main() -> int:
    """Exit code: 0 after a drain, 1 where the worker could not start."""
    options = _parse()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor too, and it decides
    try:
        settings = Settings()
        configure_logging(settings, "worker")
        _allow_connections()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work(settings, socket.socket(fileno=options.fd), options.control))
    except (SettingsError, OSError) as error:
        print(f"the worker could not start: {error}", file=sys.stderr)
        return 1
    return 0


def _allow_connections() -> None:
    """Shells leave a process 1,024 open files unless it asks for more."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    if resource.RLIM_INFINITY != now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class Worker(uvicorn.Server):
    """A uvicorn server whose process lives on when a signal has ended it, to let go of its engine."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.oriented = asyncio.Event()  # the supervisor has said where queries go, or has gone

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.drain)
        yield

    def drain(self) -> None:
        """Takes no more connections, finishes what is in flight, and ends."""
        self.should_exit = True


async def _work(settings: Settings, listener: socket.socket, control: Path) -> None:
    router = Router(settings.in_flight_limit)
    reader, writer = await asyncio.open_unix_connection(control)
    router.request_retry = lambda: _report(writer, Retry())
    count_from_zero()
    tracing = start_tracing()
    worker = Worker(_config(settings, router, tracing))
    duties = (_follow(router, reader, writer, worker), _watch_lag(), _count(router, writer))
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        await worker.oriented.wait()  # or the first requests would be told that nothing is loaded
        spare_the_old()
        await worker.serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await router.close()
        writer.close()
        await asyncio.to_thread(tracing.close)


def _config(settings: Settings, router: Router, tracing: Tracing) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(settings, router, tracing),
        loop="none",
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=max(logging.WARNING, logging.getLevelNamesMapping()[settings.log_level.upper()]),
        access_log=False,
        proxy_headers=False,  # nobody asks where a request came from
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )


async def _follow(router: Router, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, worker: Worker) -> None:
    """Obeys the supervisor in order, until it has gone."""
    try:
        while (order := await read_order(reader)) is not None:
            if isinstance(order, Routes):
                await router.switch(order)
                _report(writer, Acknowledge(order.epoch))
                worker.oriented.set()
            else:
                router.status = order
    except (OSError, ValueError, msgspec.MsgspecError, asyncio.IncompleteReadError) as error:
        logger.error("the supervisor's orders broke off: %s", error)
    worker.drain()
    worker.oriented.set()


def _report(writer: asyncio.StreamWriter, report: Report) -> None:
    if not writer.is_closing():
        writer.write(encode(report))


async def _watch_lag() -> None:
    """How long a task that could run has to wait in this process."""
    while True:
        asleep = time.perf_counter()
        await asyncio.sleep(_LAG_INTERVAL_S)
        metrics.EVENT_LOOP_LAG.observe(max(0.0, time.perf_counter() - asleep - _LAG_INTERVAL_S))


async def _count(router: Router, writer: asyncio.StreamWriter) -> None:
    """Tells the supervisor what each version answered."""
    while True:
        await asyncio.sleep(_COUNTS_INTERVAL_S)
        for counts in router.tally.take():
            _report(writer, counts)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.api", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, metavar="N", help="inherited listening socket")
    parser.add_argument("--control", type=Path, required=True, metavar="PATH", help="the supervisor's Unix socket")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
