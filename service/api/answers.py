"""The JSON of a recommendation, encoded in one pass; item metadata is JSON already and is copied as it is."""

from typing import Any, Final

import msgspec

from service import frames
from service.frames import Answer

from .engine_client import Served
from .schemas import Part

_encoder: Final = msgspec.json.Encoder()


class ItemScores(msgspec.Struct):
    """As `schemas.Scores`."""

    code: float
    item: float


class Level(msgspec.Struct):
    """As `schemas.ExplainedLevel`."""

    token: int
    log_prob: float | None


class NearItem(msgspec.Struct):
    """As `schemas.NearItem`."""

    item_id: str
    shared_tokens: int


class Explanation(msgspec.Struct):
    """As `schemas.Explanation`."""

    levels: list[Level]
    nearest: list[NearItem]
    attributes: msgspec.Raw


class Item(msgspec.Struct):
    """As `schemas.RecommendedItem`."""

    rank: int
    item_id: str
    score: float
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    code: list[int] | msgspec.UnsetType = msgspec.UNSET
    scores: ItemScores | msgspec.UnsetType = msgspec.UNSET
    explain: Explanation | msgspec.UnsetType = msgspec.UNSET


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


class BatchRow(msgspec.Struct, omit_defaults=True):
    """As `schemas.BatchRow`."""

    status: int
    recommendation: msgspec.Raw | None = None
    problem: dict[str, Any] | None = None


class Batch(msgspec.Struct):
    """As `schemas.BatchAnswer`."""

    request_id: str
    results: list[BatchRow]


def encode(served: Served, request_id: str, parts: list[Part], total_s: float) -> bytes:
    """The body of a 200; `total_s` is the request's age."""
    answer = served.answer
    return _encoder.encode(
        Recommendations(
            request_id,
            served.info.model_version,
            answer.catalog_revision,
            _items(answer, "scores" in parts),
            answer.exhausted,
            answer.source,
            History(answer.used, answer.unknown, answer.truncated),
            _timings(answer, total_s) if "timings" in parts else msgspec.UNSET,
            _warnings(answer),
        )
    )


def encode_batch(rows: list[BatchRow], request_id: str) -> bytes:
    """The body of a batch's 200."""
    return _encoder.encode(Batch(request_id, rows))


def span_attributes(served: Served) -> dict[str, Any]:
    """What a trace tells of a recommendation; durations in seconds."""
    answer = served.answer
    return {
        "prorec.model_version": served.info.model_version,
        "prorec.catalog_revision": answer.catalog_revision,
        "prorec.items": len(answer.item_ids),
        "prorec.exhausted": answer.exhausted,
        "prorec.source": answer.source,
        "prorec.queue_s": answer.queue_s,
        "prorec.batch_s": answer.batch_s,
        "prorec.run_s": answer.run_s,
        "prorec.batch_rows": answer.batch_rows,
    }


def server_timing(answer: Answer, total_s: float) -> str:
    """The Server-Timing header: milliseconds in the queue, in gathering, in the network, and altogether."""
    timings = _timings(answer, total_s)
    return f"queue;dur={timings.queue}, batch;dur={timings.batch}, run;dur={timings.run}, total;dur={timings.total}"


def total_timing(total_s: float) -> str:
    """The Server-Timing header of a batch, whose rows each have stages of their own."""
    return f"total;dur={_ms(total_s)}"


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
    if answer.explanations is not None:
        for item, explanation in zip(items, answer.explanations, strict=True):
            item.explain = _explanation(explanation)
    return items


def _explanation(explanation: frames.Explanation) -> Explanation:
    log_probs: list[float] | list[None] = explanation.log_probs or [None] * len(explanation.tokens)
    return Explanation(
        [Level(token, log_prob) for token, log_prob in zip(explanation.tokens, log_probs, strict=True)],
        [NearItem(item_id, shared) for item_id, shared in explanation.nearest],
        msgspec.Raw(explanation.attributes),
    )


def _timings(answer: Answer, total_s: float) -> Timings:
    queue, batch, run = answer.queue_s, answer.batch_s, answer.run_s
    return Timings(_ms(queue), _ms(batch), _ms(run), _ms(total_s), answer.batch_rows)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _warnings(answer: Answer) -> list[str]:
    if not answer.unknown:
        return answer.warnings
    count = "1 history item is" if answer.unknown == 1 else f"{answer.unknown} history items are"
    known = "" if answer.used else "; none is known, so popular items answer"
    return [f"{count} not in the catalog{known}", *answer.warnings]
