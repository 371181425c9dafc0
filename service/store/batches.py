"""Many values a few at a time, so that no command holds Redis up for long."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` values, the last one perhaps shorter."""
    remaining = iter(values)
    while batch := list(islice(remaining, size)):
        yield batch
