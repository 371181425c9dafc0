"""Cores of their own for engines: whoever searches and whoever serves HTTP do not take them from each other.

The supervisor confines itself to what engines leave, and so confines everything it starts; engines take theirs when
they start, before they have other threads.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .errors import SettingsError

_LIST: Final = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*")


@dataclass(frozen=True)
class Shares:
    """Who may run where, by the system's numbers of cores."""

    engines: frozenset[int]
    others: frozenset[int]

    @classmethod
    def of(cls, engine_cores: str) -> "Shares":
        """Engines on these, everything else on the rest of the cores that this process may use.

        Raises SettingsError for cores it may not use, or where none is left, or on a system without such a thing.
        """
        setting = f"PROREC_ENGINE_CORES={engine_cores}"
        if not hasattr(os, "sched_setaffinity"):
            raise SettingsError(f"{setting}: this system does not let a process choose its cores")
        usable, wanted = os.sched_getaffinity(0), parse(engine_cores)
        if strangers := wanted - usable:
            raise SettingsError(f"{setting}: this process may not use {listed(strangers)}, only {listed(usable)}")
        if wanted == usable:
            raise SettingsError(f"{setting}: no core is left for HTTP workers, as this process may use no others")
        return cls(frozenset(wanted), frozenset(usable - wanted))


def parse(cores: str) -> set[int]:
    """The cores that a list such as 0,4-6 names. Raises ValueError for anything else, and for a list of none."""
    if not _LIST.fullmatch(cores):
        raise ValueError("must list cores, such as 2-7 or 0,4")
    spans = (span.partition("-")[::2] for span in cores.split(","))
    found = {core for first, last in spans for core in range(int(first), int(last or first) + 1)}
    if not found:
        raise ValueError("names no core")
    return found


def listed(cores: Iterable[int]) -> str:
    """As `parse` reads it."""
    return ",".join(map(str, sorted(cores)))


def confine(cores: Iterable[int]) -> None:
    """The calling thread, and the threads and processes it starts from now on."""
    os.sched_setaffinity(0, cores)
