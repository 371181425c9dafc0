"""Refuses at the start what no engine on this machine could do."""

import subprocess
import sys
from typing import Final

from service.errors import SettingsError
from service.lifetime import REFUSED
from service.settings import Settings

_PROGRAM: Final = "service.engine.fitness"


def refuse_unfit(settings: Settings) -> None:
    """Raises SettingsError for a provider or a precision that cannot be had here. Costs nothing for the usual ones."""
    if settings.provider != "cuda" and settings.precision == "fp32":
        return
    command = [sys.executable, "-m", _PROGRAM, settings.provider, settings.precision]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode == REFUSED:
        raise SettingsError(ended.stderr.strip().rpartition("\n")[2] or "this machine cannot do what is asked")
