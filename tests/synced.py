"""What a machine that stops could not lose: which files the system was told to write, before which were renamed."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def synced_before_renamed(action: Callable[[], object]) -> set[str]:
    """Names of the files and folders that are on the disk when `action` renames what they are, or what holds them."""
    synced: list[str] = []
    found: set[str] = set()

    def watch(frame: Any, event: str, called: Any) -> None:
        if event == "c_call" and called is os.fsync:
            synced.append(Path(f"/proc/self/fd/{frame.f_locals['descriptor']}").resolve().name)
        if event == "c_call" and called is os.replace:
            found.update(synced)

    sys.setprofile(watch)
    try:
        action()
    finally:
        sys.setprofile(None)
    return found
