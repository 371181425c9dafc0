"""How a benchmark ends where what it was given, or what it started, is at fault: one sentence and exit code 1."""

import sys
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import typer

from models.errors import ModelError
from service.errors import ServiceError
from service.lifetime import one_line
from training.errors import TrainingError

from .errors import BenchError

_EXPECTED = (BenchError, ModelError, ServiceError, TrainingError, httpx.HTTPError, psutil.Error, OSError)


def run(command: Callable[..., Any]) -> None:
    """A function as a command line of its own, or a `typer.Typer`; an error that nobody expects keeps its traceback."""
    try:
        command() if isinstance(command, typer.Typer) else typer.run(command)
    except _EXPECTED as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
