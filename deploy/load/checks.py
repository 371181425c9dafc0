"""What an answer must be like: each check says what is wrong with one, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from ..errors import BenchError


class RecommendedItem(msgspec.Struct):
    item_id: str


class Answer(msgspec.Struct):
    """What a load test reads of an answer."""

    model_version: str
    items: list[RecommendedItem]
    catalog_revision: int = 0

    def item_ids(self) -> list[str]:
        """Best first."""
        return [item.item_id for item in self.items]


@dataclass(frozen=True)
class Asked:
    """One request that was answered; times are of the machine's monotonic clock, in seconds."""

    number: int  # of the body
    user: str | None
    sent: float
    received: float


class Check(Protocol):
    """Looks at every answer of one client."""

    def __call__(self, asked: Asked, answer: Answer) -> str | None:
        """What is wrong, in a few words that many answers share."""


UNKNOWN: Final = "a version or catalog revision whose answers are not known"
OTHER: Final = "not what the version it names answered before"
FICKLE: Final = "a user got another version than before"


@dataclass
class KnownAnswers:
    """Every answer must be the one that the version it names gave to the same body before; no versions, no check."""

    by_version: dict[tuple[str, int], list[list[str]]] = field(default_factory=dict)  # (version, revision) → body → ids

    def keep(self, answers: Sequence[Answer]) -> None:
        """Answers of one version to all bodies, in order. Raises BenchError where they are of several."""
        named = {(answer.model_version, answer.catalog_revision) for answer in answers}
        if len(named) != 1:
            raise BenchError(f"answers that should be of one version and one catalog are of {sorted(named)}")
        self.by_version[named.pop()] = [answer.item_ids() for answer in answers]

    def __call__(self, asked: Asked, answer: Answer) -> str | None:
        if not self.by_version:
            return None
        known = self.by_version.get((answer.model_version, answer.catalog_revision))
        if known is None:
            return UNKNOWN
        return OTHER if answer.item_ids() != known[asked.number] else None


@dataclass
class FaithfulUsers:
    """A user is always answered by the same version."""

    seen: dict[str, str] = field(default_factory=dict)

    def __call__(self, asked: Asked, answer: Answer) -> str | None:
        if asked.user is None:
            return None
        return FICKLE if self.seen.setdefault(asked.user, answer.model_version) != answer.model_version else None


@dataclass(frozen=True)
class Sighting:
    """When an answer was asked and had come, the catalog it names, and which watched items were in it."""

    sent: float
    received: float
    revision: int
    items: list[str]


@dataclass
class Watch:
    """Notes each answer for whoever knows which items could come back when; `take` hands the notes over."""

    items: frozenset[str]
    notes: list[Sighting] = field(default_factory=list)

    def __call__(self, asked: Asked, answer: Answer) -> str | None:
        found = [item for item in answer.item_ids() if item in self.items]
        self.notes.append(Sighting(asked.sent, asked.received, answer.catalog_revision, found))
        return None

    def take(self) -> list[Sighting]:
        notes, self.notes = self.notes, []
        return notes
