"""What was measured, beside what was wanted."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One figure.

    row       which measurement it belongs to
    what      in words
    value     the figure
    unit      "×", "MB", "", …
    goal      what was wanted, None for a figure without a goal
    at_most   whether the goal bounds it from above
    detail    what it was computed from
    """

    row: str
    what: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = False
    detail: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def as_row(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}

    def line(self) -> str:
        """For people."""
        goal = "" if self.goal is None else f"{'≤' if self.at_most else '≥'} {self.goal:g} {self.unit}"
        met = {None: "", True: "met", False: "NOT MET"}[self.met]
        return f"{self.what:<58} {_short(self.value):>9} {self.unit:<6} {goal:<12} {met:<8} {self.detail}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def unmet(findings: Iterable[Finding]) -> list[str]:
    return [finding.what for finding in findings if finding.met is False]
