"""`python -m service.engine --artifact DIR --socket PATH`: serves one artifact until SIGTERM or the end of stdin."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import uvloop

from service.lifetime import check_socket_path, one_line, parse_options, stop_requested
from service.log_format import configure_logging
from service.settings import Settings

from .batcher import Batcher
from .changes import Changes
from .server import Server
from .slots import Slots
from .startup import Engine, load

_SWITCH_INTERVAL_S = 0.0005

logger = logging.getLogger(__name__)


def main() -> int:
    """Exit code: 0 after a drain, 1 for an engine that could not start or lost its device."""
    options = parse_options("service.engine", __doc__)
    try:
        settings = Settings()
        configure_logging(settings, "engine")
        check_socket_path(options.socket)
        # The search thread must not wait Python's usual 5 ms for the interpreter when a run ends.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        engine = load(options.artifact, settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(engine, settings, options.socket))
    except Exception as error:
        logger.debug("start failed", exc_info=True)
        print(f"the engine could not start: {one_line(error)}", file=sys.stderr)
        return 1


async def _serve(engine: Engine, settings: Settings, socket: Path) -> int:
    batcher = Batcher(engine.search, queue_limit=settings.queue_limit, max_rows=settings.max_batch_rows)
    changes = Changes(engine.search, batcher)
    server = Server(engine.catalog, batcher, Slots(engine.slot_count), changes, engine.info)
    ended = batcher.start()
    await server.listen(str(socket))
    stop: asyncio.Future[Any] = asyncio.ensure_future(stop_requested().wait())
    await asyncio.wait([stop, ended], return_when=asyncio.FIRST_COMPLETED)
    lost = ended.exception() if ended.done() else None
    await server.drain(0.0 if lost else settings.drain_timeout_s)
    changes.close()
    socket.unlink(missing_ok=True)
    if lost:
        print(f"the engine lost its device: {one_line(lost)}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
