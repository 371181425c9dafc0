"""Settings of a run as text: every one as `--set` takes it, with what it means; those in which two runs differ."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .config import TrainingConfig

_COLUMN: Final = 34
_NAMED: Final = 3


def setting_lines(config: TrainingConfig) -> Iterator[str]:
    """One line a setting, in the order of the configuration."""
    for name, value, field in _settings(config):
        yield f"{name + '=' + _shown(value):<{_COLUMN}}  {_meaning(field)}".rstrip()


def told_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The first settings in which two JSON-ready configurations differ, as "seed=0, now 5"; "" where none does."""
    changes = list(_changes(before, after))
    more = len(changes) - _NAMED
    return "; ".join([*changes[:_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        match before.get(name), after.get(name):
            case dict() as then, dict() as now:
                yield from _changes(then, now, f"{path}{name}.")
            case then, now if then != now:
                yield f"{path}{name}={_shown(then) or 'off'}, now {_shown(now) or 'off'}"


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
        case dict():
            return "on"
        case tuple() | list():
            return ",".join(map(str, value))
        case _:
            return str(value)


def _meaning(field: FieldInfo) -> str:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return ": ".join(filter(None, [" | ".join(choices), field.description]))
