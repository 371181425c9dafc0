"""The supervisor of a replica: follows Redis, keeps engines and the HTTP workers alive, swaps models, drains."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from types import FrameType

import uvloop

from service.cores import Shares, confine
from service.embedded_redis import embedded_redis
from service.errors import ServiceError, SettingsError
from service.lifetime import REFUSED
from service.log_format import configure_logging
from service.settings import Settings
from service.store import Store

from .announce import Announce
from .last import last_folder, only_replica
from .replica import Replica
from .scratch import scratch_folder
from .unfit import refuse_unfit

__all__ = ["serve"]

_BACKLOG = 2048


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT.

    Exit code: 0 after a drain; with one sentence on stderr 2 for a setting that cannot be used, 1 for what else kept it
    from starting.
    """
    configure_logging(settings, "supervisor")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        refuse_unfit(settings)
        shares = Shares.of(settings.engine_cores) if settings.engine_cores else None
        if shares:
            confine(shares.others)
        with _listening(settings) as listener, _redis_url(settings) as url:
            known = settings.model_copy(update={"redis_url": url})
            _serve(known, listener, shares, embedded=settings.redis_url is None)
    except (ServiceError, OSError) as error:
        print(f"the service could not start: {error}", file=sys.stderr)
        return REFUSED if isinstance(error, SettingsError) else 1
    return 0


def _serve(settings: Settings, listener: socket.socket, shares: Shares | None, *, embedded: bool) -> None:
    assert settings.redis_url is not None
    with closing(Store.connect(settings.redis_url, settings.namespace)) as store:
        where = f"embedded in {settings.data_dir}" if embedded else f"at {store.redis}"
        last = last_folder(settings.data_dir, None if embedded else store.redis, settings.namespace)
        with only_replica(last, settings.data_dir), scratch_folder() as folder:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                replica = partial(Replica, settings, listener, store, folder, last, shares)
                runner.run(_live(replica, Announce(_address(listener), where)))
            # What is left is short, and a second Ctrl-C must not leave half of it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)


async def _live(replica: Callable[[Announce], Replica], announce: Announce) -> None:
    """A replica is made inside the event loop."""
    await replica(announce).run()


def _leave(_number: int, _frame: FrameType | None) -> None:
    """A signal before anything serves: unwinds what was started so far."""
    raise SystemExit(0)


@contextmanager
def _redis_url(settings: Settings) -> Iterator[str]:
    if settings.redis_url is not None:
        yield settings.redis_url
    else:
        with embedded_redis(settings.data_dir) as url:
            yield url


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """Raises ServiceError where the address cannot be listened on; it may be free a moment later."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # behind it the address once more
        raise ServiceError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from None
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    """Where others may find it: by the name of this machine or container where it listens on all addresses."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
