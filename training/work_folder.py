"""What keeps one working folder to one run: the data it was begun with, and one process at a time."""

import fcntl
import hashlib
import json
import os
import weakref
from pathlib import Path

from .errors import ConfigError
from .interactions import Split


def fingerprint(split: Split, text_encoder: str) -> str:
    """SHA-256 over all that is read: events of every split, items with their metadata, precomputed embeddings."""
    data, digest = split.interactions, hashlib.sha256()
    for array in (data.offsets, data.events):
        digest.update(array.tobytes())
    for item in data.items:
        digest.update(json.dumps(item).encode())
    if text_encoder.endswith(".npy"):
        with Path(text_encoder).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def lock(owner: object, path: Path) -> None:
    """Held as long as `owner` lives, and dropped by the kernel when its process ends in any way."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    weakref.finalize(owner, os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another process is training in {path.parent}") from None


def write_once(path: Path, text: str) -> None:
    """Leaves a file that is there as it is; one that is not appears whole."""
    if not path.exists():
        aside = path.with_suffix(".writing")
        aside.write_text(text)
        aside.replace(path)
