"""The JSON of a recommendation, encoded in one pass; item metadata is JSON already and is copied as it is."""

from typing import Final

import msgspec

from service.frames import Answer

from .engine_client import Served
from .schemas import Part

_encoder: Final = msgspec.json.Encoder()


class ItemScores(msgspec.Struct):
    """As `schemas.Scores`."""

    code: float
    item: float


class Item(msgspec.Struct):
    """As `schemas.RecommendedItem`."""

    rank: int
    item_id: str
    score: float
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    code: list[int] | msgspec.UnsetType = msgspec.UNSET
    scores: ItemScores | msgspec.UnsetType = msgspec.UNSET


class History(msgspec.Struct):
    """As `schemas.HistoryUse`."""

    used: int
    unknown: int
    truncated: int


class Timings(msgspec.Struct):
    """As `schemas.Timings`, milliseconds."""

    queue: float
    batch: float
    run: float
    total: float
    batch_rows: int


class Recommendations(msgspec.Struct):
    """As `schemas.RecommendAnswer`."""

    request_id: str
    model_version: str
    catalog_revision: int
    items: list[Item]
    exhausted: bool
    source: str
    history: History
    timings_ms: Timings | msgspec.UnsetType
    warnings: list[str]


def encode(served: Served, request_id: str, parts: list[Part], total_s: float) -> bytes:
    """The body of a 200; `total_s` is the request's age."""
    answer = served.answer
    return _encoder.encode(
        Recommendations(
            request_id,
            served.info.model_version,
            0,
            _items(answer, "scores" in parts),
            answer.exhausted,
            answer.source,
            History(answer.used, answer.unknown, answer.truncated),
            _timings(answer, total_s) if "timings" in parts else msgspec.UNSET,
            _warnings(answer),
        )
    )


def server_timing(answer: Answer, total_s: float) -> str:
    """The Server-Timing header: milliseconds in the queue, in gathering, in the network, and altogether."""
    timings = _timings(answer, total_s)
    stages = ("queue", "batch", "run", "total")
    return ", ".join(f"{stage};dur={getattr(timings, stage)}" for stage in stages)


def _items(answer: Answer, with_scores: bool) -> list[Item]:
    items = [Item(i + 1, item_id, answer.scores[i]) for i, item_id in enumerate(answer.item_ids)]
    if answer.metadata is not None:
        for item, metadata in zip(items, answer.metadata, strict=True):
            item.metadata = msgspec.Raw(metadata)
    if answer.codes is not None:
        for item, code in zip(items, answer.codes, strict=True):
            item.code = code
    if with_scores and answer.code_scores:
        for item, code_score in zip(items, answer.code_scores, strict=True):
            item.scores = ItemScores(code_score, item.score - code_score)
    return items


def _timings(answer: Answer, total_s: float) -> Timings:
    queue, batch, run = answer.queue_s, answer.batch_s, answer.run_s
    return Timings(_ms(queue), _ms(batch), _ms(run), _ms(total_s), answer.batch_rows)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _warnings(answer: Answer) -> list[str]:
    if not answer.unknown:
        return []
    count = "1 history item is" if answer.unknown == 1 else f"{answer.unknown} history items are"
    known = "" if answer.used else "; none is known, so popular items answer"
    return [f"{count} not in the catalog{known}"]
