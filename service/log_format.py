"""How every process of a replica writes its log: lines for people, or one JSON object a line.

Whatever is logged while a request is worked on carries that request's ids, in JSON as fields of their own.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TextIO

from pythonjsonlogger.json import JsonFormatter

from .settings import Settings

_TEXT: Final = "%(levelname)s %(name)s: %(message)s"
_JSON: Final = "%(levelname)s %(name)s %(message)s %(process)d"
_NAMES: Final = {"levelname": "level", "name": "logger", "process": "pid"}

_fields: ContextVar[dict[str, str]] = ContextVar("log_fields")


def configure_logging(settings: Settings, role: str) -> None:
    """Sets the root logger of this process up, on stderr; `role` says what the process is."""
    logging.basicConfig(level=settings.log_level.upper(), handlers=[log_handler(settings, role, sys.stderr)])


def log_handler(settings: Settings, role: str, stream: TextIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(settings, role))
    handler.addFilter(_add_fields)
    return handler


@contextmanager
def log_fields(**fields: str | None) -> Iterator[None]:
    """What is logged within the block, in this task and what it starts, carries `fields`; None is left out."""
    token = _fields.set({name: value for name, value in fields.items() if value is not None})
    try:
        yield
    finally:
        _fields.reset(token)


def _formatter(settings: Settings, role: str) -> logging.Formatter:
    if settings.log_format == "text":
        return logging.Formatter(_TEXT)
    return JsonFormatter(_JSON, rename_fields=_NAMES, timestamp="time", static_fields={"role": role})


def _add_fields(record: logging.LogRecord) -> bool:
    for name, value in _fields.get({}).items():
        setattr(record, name, value)
    return True
