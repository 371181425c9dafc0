"""Every setting of a run as a line of text: its name and value as `--set` takes them, and what it means."""

from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .config import TrainingConfig

_COLUMN: Final = 34


def setting_lines(config: TrainingConfig) -> Iterator[str]:
    """One line a setting, in the order of the configuration."""
    for name, value, field in _settings(config):
        yield f"{name + '=' + _shown(value):<{_COLUMN}}  {_meaning(field)}".rstrip()


def _settings(config: BaseModel, path: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value, field


def _shown(value: Any) -> str:
    """As `load_config` reads it; nothing for None, which switches off."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)


def _meaning(field: FieldInfo) -> str:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return ": ".join(filter(None, [" | ".join(choices), field.description]))
