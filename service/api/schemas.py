"""What clients of `/recommend` send and receive, as OpenAPI shows it.

Requests are validated by these models. Answers are built by `answers`, which does no pydantic work per item; the answer
models here only describe them, and the tests hold the two together.
"""

import math
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .body import REQUEST, Small, request_with
from .problems import Problem

Part = Literal["metadata", "codes", "scores", "explain", "timings"]

_MOST_ATTRIBUTES: Final = 1000
_LARGEST_K: Final = 1_000_000  # fits every integer on the way; the model's largest beam decides
_ANSWER: Final = ConfigDict(extra="forbid")

REQUEST_EXAMPLE: Final[dict[str, JsonValue]] = {
    "history": ["B000052YAN", "B00005NDUC", "B0009RF9DW"],
    "k": 5,
    "exclude": ["B001MA0QY2"],
    "filter": {"categories": {"any_of": ["Skin Care"]}, "price": {"lte": 25}},
    "user_id": "user-17",
    "return": ["metadata", "scores"],
}
ANSWER_EXAMPLE: Final[dict[str, JsonValue]] = {
    "request_id": "6f1c0c1b6a0b4d0f8f0a5a2a4a8f9b1e",
    "model_version": "beauty-2",
    "catalog_revision": 7,
    "items": [
        {
            "rank": 1,
            "item_id": "B000142FVW",
            "score": -3.21,
            "metadata": {"item_id": "B000142FVW", "title": "Hydrating mask", "price": 12.5},
            "scores": {"code": -4.5, "item": 1.29},
        }
    ],
    "exhausted": False,
    "source": "model",
    "history": {"used": 3, "unknown": 0, "truncated": 0},
    "warnings": [],
}

_PROBLEM_EXAMPLE: Final[dict[str, JsonValue]] = {
    "type": "urn:prorec:error:bad_request",
    "title": "Bad request",
    "status": 422,
    "code": "bad_request",
    "detail": "/requests/1/k must be greater than or equal to 1",
    "errors": [{"pointer": "/requests/1/k", "detail": "must be greater than or equal to 1"}],
    "request_id": ANSWER_EXAMPLE["request_id"],
}


def _scalar(value: object) -> str | float | bool:
    """Integers become floats: attributes know one kind of number."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise PydanticCustomError("scalar", "must be a string, a finite number, true or false")


Scalar = Annotated[
    str | float | bool, PlainValidator(_scalar), WithJsonSchema({"type": ["string", "number", "boolean"]})
]


def _few_attributes(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > _MOST_ATTRIBUTES:
        raise PydanticCustomError("too_many", "must not name more than {most} attributes", {"most": _MOST_ATTRIBUTES})
    return value


class FieldFilter(Small):
    """What one attribute must be like; all that is given holds together."""

    model_config = REQUEST

    any_of: list[Scalar] | None = Field(
        None, min_length=1, fail_fast=True, description="At least one of the item's values is among these."
    )
    none_of: list[Scalar] | None = Field(
        None, min_length=1, fail_fast=True, description="None of the item's values is among these."
    )
    gte: float | None = Field(None, description="The item's number is at least this.")
    lte: float | None = Field(None, description="The item's number is at most this.")

    @model_validator(mode="before")
    @classmethod
    def _is_an_object(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise PydanticCustomError("no_filter", 'must be an object, such as {"any_of": ["…"]}')
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.any_of is None and self.none_of is None and self.gte is None and self.lte is None:
            raise PydanticCustomError("empty_filter", "must have at least one of any_of, none_of, gte and lte")
        return self

    @property
    def value_count(self) -> int:
        bounds = (self.gte is not None) + (self.lte is not None)
        return len(self.any_of or ()) + len(self.none_of or ()) + bounds


class RecommendRequest(Small):
    """A user's history, and what is wanted back."""

    model_config = request_with(**REQUEST_EXAMPLE)

    history: list[str] = Field(
        fail_fast=True,
        description="Item ids, oldest first; unknown ids are counted and skipped, popular items answer if all are.",
    )
    k: int = Field(10, ge=1, le=_LARGEST_K, description="How many items; at most the model's largest beam width.")
    exclude: list[str] = Field(
        [], fail_fast=True, description="Item ids that must not come back; a warning counts unknown ones."
    )
    exclude_seen: bool = Field(True, description="Whether the items of the history must not come back.")
    filter: Annotated[dict[str, FieldFilter], BeforeValidator(_few_attributes)] = Field(
        {},
        description="Attribute → what it must be like; only items for which all of it holds come back. A warning names"
        " values of any_of that no item has.",
    )
    include_items: list[str] | None = Field(None, fail_fast=True, description="Only these item ids may come back.")
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="0: by score alone; 1: no two items whose codes begin with the same token, where enough others were"
        " found. In between max(1, ⌈k · (1 - diversity)⌉) of them may.",
    )
    min_score: float | None = Field(None, description="Items with a lower score do not come back.")
    user_id: str | None = Field(
        None, max_length=256, description="Names the user, who always gets the same version while a canary runs."
    )
    model_version: str | None = Field(
        None, max_length=256, description="Only this version may answer; 409 where it is not loaded."
    )
    beam_width: int | None = Field(
        None, ge=1, le=_LARGEST_K, description="Beams the search keeps, rounded up to a width the model has."
    )
    timeout_ms: int | None = Field(None, ge=1, description="After this long the answer is 504.")
    parts: list[Part] = Field([], alias="return", fail_fast=True, description="Optional parts of the answer.")


class Scores(BaseModel):
    model_config = _ANSWER

    code: float = Field(description="Log-probability of the item's code among those of all items.")
    item: float = Field(description="What rescoring added.")


class ExplainedLevel(BaseModel):
    model_config = _ANSWER

    token: int
    log_prob: float | None = Field(
        description="Of the token among those that items have after those before it; null where popularity answered and"
        " no model did."
    )


class NearItem(BaseModel):
    model_config = _ANSWER

    item_id: str = Field(description="An item of the history.")
    shared_tokens: int = Field(description="How many tokens its code shares with the item's, from the first on.")


class Explanation(BaseModel):
    """Why an item came back."""

    model_config = _ANSWER

    levels: list[ExplainedLevel] = Field(description="The item's code, token by token.")
    nearest: list[NearItem] = Field(description="Items of the history with the longest shared prefix, newest first.")
    attributes: dict[str, Any] = Field(description="What filters see of the item.")


class RecommendedItem(BaseModel):
    model_config = _ANSWER

    rank: int = Field(description="1 is the best.")
    item_id: str
    score: float = Field(description="What the order follows; comparable within one answer only.")
    metadata: dict[str, Any] | None = Field(None, description="With `return: metadata`.")
    code: list[int] | None = Field(None, description="The item's tokens, with `return: codes`.")
    scores: Scores | None = Field(None, description="With `return: scores`, where the model answered.")
    explain: Explanation | None = Field(None, description="With `return: explain`.")


class HistoryUse(BaseModel):
    model_config = _ANSWER

    used: int = Field(description="Items that the model read.")
    unknown: int = Field(description="Items that are not in the catalog.")
    truncated: int = Field(description="Known items older than the model reads.")


class Timings(BaseModel):
    """Milliseconds, and how many requests shared the run."""

    model_config = _ANSWER

    queue: float = Field(description="Waiting for a batch.")
    batch: float = Field(description="Gathering the batch.")
    run: float = Field(description="In the network.")
    total: float = Field(description="From the request's headers to its answer.")
    batch_rows: int = Field(description="Requests that shared the run.")


class RecommendAnswer(BaseModel):
    """Recommendations, best first, of one model version."""

    model_config = ConfigDict(**_ANSWER, json_schema_extra={"example": ANSWER_EXAMPLE})

    request_id: str
    model_version: str
    catalog_revision: int = Field(description="Of the catalog that the answer obeys.")
    items: list[RecommendedItem]
    exhausted: bool = Field(
        description="Fewer than `k` legal items exist; all of them are here, but those below `min_score`."
    )
    source: Literal["model", "popular"]
    history: HistoryUse
    timings_ms: Timings | None = Field(None, description="With `return: timings`.")
    warnings: list[str]


class BatchRequest(Small):
    """Several requests at once; each is checked and answered for itself."""

    model_config = request_with(requests=[REQUEST_EXAMPLE, {"history": [], "k": 3}], timeout_ms=500)

    requests: list[Any] = Field(
        min_length=1,
        description="Requests as for `/recommend`.",
        json_schema_extra={"items": {"$ref": "#/components/schemas/RecommendRequest"}},
    )
    timeout_ms: int | None = Field(None, ge=1, description="For every request, unless it names a shorter one.")


class BatchRow(BaseModel):
    """One request's outcome: `recommendation` with status 200, else `problem`."""

    model_config = _ANSWER

    status: int
    recommendation: RecommendAnswer | None = None
    problem: Problem | None = None


class BatchAnswer(BaseModel):
    """Outcomes in the order of the requests."""

    model_config = ConfigDict(
        **_ANSWER,
        json_schema_extra={
            "example": {
                "request_id": ANSWER_EXAMPLE["request_id"],
                "results": [
                    {"status": 200, "recommendation": ANSWER_EXAMPLE},
                    {"status": 422, "problem": _PROBLEM_EXAMPLE},
                ],
            }
        },
    )

    request_id: str
    results: list[BatchRow]
