"""What is known of a load test so far: counts over time and by part, and what happened when."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .arrivals import WARM_UP
from .checks import Sighting
from .clients import Report
from .phase import Phase, Timeline

_PLOT_WINDOW_S: Final = 1.0
_RECENT_S: Final = 3.0


@dataclass(frozen=True)
class Moment:
    """Something that was done to the service meanwhile."""

    at_s: float  # after the origin
    text: str


@dataclass
class Record:
    """Grows with the length of a test only by its moments."""

    origin: float = field(default_factory=time.monotonic)
    timeline: Timeline = field(default_factory=lambda: Timeline(_PLOT_WINDOW_S))
    parts: dict[str, Phase] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    judge: Callable[[Sequence[Sighting]], None] = lambda _sightings: None  # who is told what watched answers held

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.origin

    def mark(self, text: str) -> None:
        self.moments.append(Moment(round(self.now_s, 3), text))

    def hear(self, report: Report) -> None:
        for (at_s, part), phase in report.counted.items():
            self.timeline.add(at_s, phase)
            self.part(part).add(phase)
        self.judge(report.sightings)

    def part(self, name: str) -> Phase:
        return self.parts.setdefault(name, Phase())

    def whole(self) -> Phase:
        """Everything but the warm-up; answers that must not be count from there too."""
        phases = [phase for name, phase in self.parts.items() if name != WARM_UP]
        whole = Phase.merged(phases)
        whole.wrong.update(self.part(WARM_UP).wrong)
        return whole

    @property
    def counted(self) -> bool:
        """Whether anything but the warm-up has been measured."""
        whole = self.whole()
        return bool(whole.answered or whole.failed)

    def line(self) -> str:
        """How it stands, for whoever watches."""
        last = f", {self.moments[-1].text}" if self.moments else ""
        if not self.timeline.windows:
            return f"{self.now_s:.0f} s{last}: preparing"
        recent = Phase.merged(
            phase
            for number, phase in self.timeline.windows.items()
            if (number + 1) * self.timeline.window_s > self.now_s - _RECENT_S
        )
        whole = self.whole()
        return (
            f"{self.now_s:.0f} s{last}: {whole.answered} answered, {whole.failed} failed, {whole.mixed} inconsistent; "
            f"now p50 {recent.percentile_ms(50)}, p99 {recent.percentile_ms(99)} ms"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "window_s": self.timeline.window_s,
            "windows": self.timeline.rows(),
            "moments": [{"at_s": moment.at_s, "text": moment.text} for moment in self.moments],
        }
