"""From a checked request to the engine's query."""

import time
from collections.abc import Iterable, Iterator

from service.errors import FieldError
from service.frames import Condition, EngineInfo, Query
from service.settings import Settings

from .body import bad_request
from .schemas import BatchRequest, FieldFilter, RecommendRequest

_ITEMS = "has {} items, at most {} are allowed"
_VALUES = "has {} values, at most {} are allowed"

_Limit = tuple[str, int, int, str]  # pointer, found, limit, sentence


def check_limits(wanted: RecommendRequest, settings: Settings, info: EngineInfo | None) -> None:
    """Raises BadRequest naming every field above a limit of this service or, as far as it is known, of the model."""
    _refuse_above([*_service_limits(wanted, settings), *_model_limits(wanted, info)])


def check_batch(wanted: BatchRequest, settings: Settings) -> None:
    """Raises BadRequest for a limit that the batch as a whole crosses."""
    _refuse_above(_batch_limits(wanted, settings))


def to_query(wanted: RecommendRequest, query_id: int, timeout_ms: int) -> Query:
    """`timeout_ms` counts from now."""
    parts = wanted.parts
    return Query(
        query_id,
        wanted.history,
        wanted.k,
        deadline=time.monotonic() + timeout_ms / 1000,
        exclude=wanted.exclude,
        exclude_seen=wanted.exclude_seen,
        beam_width=wanted.beam_width,
        with_metadata="metadata" in parts,
        with_codes="codes" in parts,
        filter=[_condition(field, wish) for field, wish in wanted.filter.items()],
        include_items=wanted.include_items,
        diversity=wanted.diversity,
        min_score=wanted.min_score,
        with_explain="explain" in parts,
    )


def _refuse_above(limits: Iterable[_Limit]) -> None:
    """Raises BadRequest naming every field that is above its limit."""
    above = [
        FieldError(pointer=pointer, detail=sentence.format(found, limit))
        for pointer, found, limit, sentence in limits
        if found > limit
    ]
    if above:
        raise bad_request(above)


def _service_limits(wanted: RecommendRequest, settings: Settings) -> Iterator[_Limit]:
    yield "/history", len(wanted.history), settings.max_history, _ITEMS
    yield "/exclude", len(wanted.exclude), settings.max_exclude, _ITEMS
    if wanted.filter:
        values = sum(wish.value_count for wish in wanted.filter.values())
        yield "/filter", values, settings.max_filter_values, _VALUES
    if wanted.include_items:
        yield "/include_items", len(wanted.include_items), settings.max_filter_values, _ITEMS
    yield "/timeout_ms", wanted.timeout_ms or 0, settings.max_timeout_ms, "is {}, it must be at most {}"


def _batch_limits(wanted: BatchRequest, settings: Settings) -> Iterator[_Limit]:
    yield "/requests", len(wanted.requests), settings.max_batch_requests, "has {} requests, at most {} are allowed"
    yield "/timeout_ms", wanted.timeout_ms or 0, settings.max_timeout_ms, "is {}, at most {} is allowed"


def _model_limits(wanted: RecommendRequest, info: EngineInfo | None) -> Iterator[_Limit]:
    if info is None:
        return
    sentence = "is {}, the largest beam width of model " + info.model_version + " is {}"
    yield "/k", wanted.k, info.beam_widths[-1], sentence
    yield "/beam_width", wanted.beam_width or 0, info.beam_widths[-1], sentence


def _condition(field: str, wish: FieldFilter) -> Condition:
    return Condition(field, wish.any_of, wish.none_of, wish.gte, wish.lte)
