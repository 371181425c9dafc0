"""What a replica served last, on its disk, for a start at which Redis is away."""

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from service.store import Deployment

FILE: Final = "last.json"

logger = logging.getLogger(__name__)


def remembered(data_dir: Path) -> Deployment | None:
    """None where nothing was ever served from here, or what was written cannot be read."""
    try:
        return msgspec.json.decode((data_dir / FILE).read_bytes(), type=Deployment)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        logger.warning("what was served last cannot be read: %s", error)
        return None


def remember(data_dir: Path, deployment: Deployment) -> None:
    """Replaces the file in one step. A disk that is full costs only the memory."""
    target, aside = data_dir / FILE, data_dir / f".{FILE}.{os.getpid()}"
    try:
        aside.write_bytes(msgspec.json.encode(deployment))
        aside.replace(target)
    except OSError as error:
        logger.warning("what is served cannot be written to %s: %s", target, error)
