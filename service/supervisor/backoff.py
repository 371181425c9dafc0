"""How long to wait before something that failed is tried again."""

import time
from typing import Final

_FIRST_S: Final = 0.5
_LONGEST_S: Final = 30.0
_STEADY_S: Final = 60.0  # after that long without a failure the next one is a first one


class Backoff:
    """0, then 0.5 s, doubled up to 30 s; starts over after a steady minute."""

    def __init__(self, *, immediate: bool) -> None:
        self._failures = 0 if immediate else 1
        self._least = self._failures
        self._last = time.monotonic()

    def next_s(self) -> float:
        """The pause after one more failure, seconds."""
        now = time.monotonic()
        if now - self._last > _STEADY_S + _LONGEST_S:
            self._failures = self._least
        self._last = now
        pause = 0.0 if not self._failures else min(_LONGEST_S, _FIRST_S * 2.0 ** (self._failures - 1))
        self._failures += 1
        return pause
