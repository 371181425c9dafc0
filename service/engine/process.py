"""One engine process: from a quiet start to its drain."""

import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from service.errors import SettingsError
from service.lifetime import REFUSED, check_socket_path, one_line, stop_requested
from service.log_format import configure_logging
from service.quiet import Quietly
from service.settings import Settings

from .batcher import Batcher
from .changes import Changes
from .devices import NoProvider
from .precision import PrecisionError
from .server import Server
from .slots import Slots
from .startup import Engine, load

logger = logging.getLogger(__name__)


def load_quietly(artifact: Path, socket: Path, quietly: Quietly) -> Engine | int:
    """A warm engine, or an exit code with the reason as one line on stderr: 2 where another attempt cannot help."""
    try:
        settings = Settings()
        configure_logging(settings, "engine")
        check_socket_path(socket)
        return load(artifact, settings, _tell, quietly)
    except Exception as error:
        logger.debug("start failed", exc_info=True)
        print(f"the engine could not start: {one_line(error)}", file=sys.stderr)
        return REFUSED if isinstance(error, (SettingsError, PrecisionError, NoProvider)) else 1


def serve(engine: Engine, socket: Path) -> int:
    """Until it is told to stop, or has lost its device. Returns the exit code."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(engine, Settings(), socket))
    except Exception as error:
        logger.debug("serving failed", exc_info=True)
        print(f"the engine could not start: {one_line(error)}", file=sys.stderr)
        return 1


async def _serve(engine: Engine, settings: Settings, socket: Path) -> int:
    batcher = Batcher(engine.search, queue_limit=settings.queue_limit, max_rows=settings.max_batch_rows)
    changes = Changes(engine.search, batcher)
    slots = Slots(engine.slot_count, settings.filter_queue_limit)
    server = Server(engine.catalog, batcher, slots, changes, engine.info)
    ended = batcher.start()
    await server.listen(str(socket))
    _tell("ready")
    stop: asyncio.Future[Any] = asyncio.ensure_future(stop_requested().wait())
    await asyncio.wait([stop, ended], return_when=asyncio.FIRST_COMPLETED)
    lost = ended.exception() if ended.done() else None
    await server.drain(0.0 if lost else settings.drain_timeout_s)
    changes.close()
    socket.unlink(missing_ok=True)
    if lost:
        print(f"the engine lost its device: {one_line(lost)}", file=sys.stderr)
    return 1 if lost else 0


def _tell(stage: str) -> None:
    """To whoever started this process, if it is still there."""
    with suppress(OSError):
        print(f"stage {stage}", flush=True)
