"""What filters can compare of one JSON value: strings, a number, a boolean, or nothing."""

import math
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

FieldKind = Literal["keyword", "number", "boolean"]
Scalar = str | float | bool
LONGEST_TEXT: Final = 128  # characters of a keyword, and of an attribute's name
_DEEPEST: Final = 8


class UnfilterableError(ValueError):
    """A value no filter can compare; the message says why, as the end of a sentence that begins with "it"."""


class Attribute(NamedTuple):
    """What one item has for one attribute: several different strings, or one number or boolean."""

    kind: FieldKind
    values: tuple[Scalar, ...]


def read_attribute(value: Any) -> Attribute | None:
    """What filters see of a JSON value; None: nothing (null, or a list without strings). Raises UnfilterableError."""
    if isinstance(value, str):
        return Attribute("keyword", (_checked(value),))
    if isinstance(value, bool):
        return Attribute("boolean", (value,))
    if isinstance(value, int | float):
        return Attribute("number", (_finite(value),))
    if isinstance(value, list):
        texts = tuple(dict.fromkeys(_flat(value)))
        return Attribute("keyword", texts) if texts else None
    if value is None:
        return None
    raise UnfilterableError("is an object")


def _flat(values: list[Any], depth: int = 1) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield _checked(value)
        elif isinstance(value, list) and depth < _DEEPEST:
            yield from _flat(value, depth + 1)
        elif value is not None:
            raise UnfilterableError("is a list of something else than strings")


def _checked(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise UnfilterableError(f"holds a string of {len(text)} characters, more than {LONGEST_TEXT}")
    return text


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UnfilterableError("is a number that is not finite")
    return number + 0.0  # one zero
