"""One reader process: from an artifact's items to its drain."""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path

import uvloop

from models.artifact import Artifact
from service.catalog.items import LiveItems
from service.frames import EngineInfo
from service.garbage import spare_the_old
from service.lifetime import check_socket_path, one_line, stop_requested
from service.log_format import configure_logging
from service.settings import Settings

from .server import Server

_SWITCH_INTERVAL_S = 0.0005

logger = logging.getLogger(__name__)


def serve(artifact: Path, socket: Path) -> int:
    """Exit code: 0 after a drain, 1 for a reader that could not start."""
    try:
        settings = Settings()
        configure_logging(settings, "reader")
        check_socket_path(socket)
        # A look-up must not wait Python's usual 5 ms while a thread scans texts.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        started = time.monotonic()
        items = LiveItems(Artifact.open(artifact, verify=False), settings.spare_items)
        items.code(0)  # all codes are checked with the first one that is read: here, and not on the event loop
        info = reader_info(items, time.monotonic() - started)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(Server(items, info), settings, socket))
        return 0
    except Exception as error:
        logger.debug("start failed", exc_info=True)
        print(f"the reader could not start: {one_line(error)}", file=sys.stderr)
        return 1


def reader_info(items: LiveItems, load_s: float) -> EngineInfo:
    """What a reader says of itself."""
    manifest = items.artifact.manifest
    return EngineInfo(
        query_id=0,
        model_version=manifest.model_version,
        provider="none",
        item_count=items.count,
        beam_widths=list(manifest.beam_widths),
        code_length=manifest.config.code_length,
        tokens_per_level=manifest.config.tokens_per_level,
        load_s=load_s,
        warm_s=0.0,
        pid=os.getpid(),
    )


async def _serve(server: Server, settings: Settings, socket: Path) -> None:
    spare_the_old()
    await server.listen(str(socket))
    await stop_requested().wait()
    await server.drain(settings.drain_timeout_s)
    socket.unlink(missing_ok=True)
