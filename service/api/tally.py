"""What this worker answered for each version, summed until the supervisor is told."""

from functools import lru_cache

from prometheus_client import Counter

from service import metrics
from service.errors import ServiceError

from .control import Counts

_SERVER_ERROR = 500
_REMEMBERED = 64


class Tally:
    """Counts answers, those with 5xx, and those with fewer than k items, by version; Prometheus is told at once."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int, int]] = {}

    def answered(self, version: str, *, exhausted: bool) -> None:
        _answers(version, "exhausted" if exhausted else "complete").inc()
        self._add(version, 0, int(exhausted))

    def failed(self, version: str, error: ServiceError, *, blamed: bool = True) -> None:
        """A refusal (4xx) is an answer as good as any. What the version is not `blamed` for only Prometheus hears."""
        failed = error.status >= _SERVER_ERROR
        _answers(version, "error" if failed else "refused").inc()
        if blamed:
            self._add(version, int(failed), 0)

    def take(self) -> list[Counts]:
        """Everything since the last call, one report a version."""
        counts, self._counts = self._counts, {}
        return [Counts(version, *numbers) for version, numbers in counts.items()]

    def _add(self, version: str, errors: int, exhausted: int) -> None:
        before = self._counts.get(version, (0, 0, 0))
        self._counts[version] = (before[0] + 1, before[1] + errors, before[2] + exhausted)


@lru_cache(_REMEMBERED)
def _answers(version: str, result: str) -> Counter:
    return metrics.ANSWERS.labels(version, result)
