"""Errors of serving, and what each one is over HTTP.

ServiceError
├── SettingsError             500  a setting cannot be used; ends the program at start
├── BadRequest                422  a field of the request is wrong; lists a pointer for each
│   ├── BadK                  422  k is above the largest beam width
│   ├── BadBeamWidth          422  the model has no such beam width
│   ├── BadFilter             422  an unknown attribute or a value of the wrong type; lists the known ones
│   └── BadItem               422  an item that cannot be added or changed like that
├── BadJson                   400  the body is not JSON
├── BodyTooLarge              413
├── RetryLater                     says that a second later is soon enough
│   ├── Overloaded            429  the queue is full
│   ├── NotReady              503  no engine is warm yet
│   └── Draining              503  this replica is going away
├── DeadlineExceeded          504
├── NotFollowed               504  not every replica serves the version yet; says which do not
├── EngineFailed              500  the batch raised
├── EngineCrashed             500  this request took an engine with it
├── AdminOff                  403  no admin token is set
├── AdminDenied               401
├── UnknownItem               404
├── UnknownPrefix             404  no item's code begins like that
├── CatalogFull               409  no room for another item
├── NoTextEncoder             409  the model was exported without one, or `tokenizers` is not installed
└── StoreError                500
    ├── StoreUnavailable      503  Redis does not answer, or refuses to
    │   └── StoreReadOnly     503  it answers, and takes no changes
    ├── CatalogLost           409  Redis has lost the changes of the catalog; they are to be put back first
    ├── StoreCorrupt          500  what Redis holds differs from its checksum
    ├── EvictionPolicy        409  Redis could drop a published model
    ├── BadArtifact           422  a model that cannot be published as it is
    ├── UnknownVersion        404
    ├── NotLoaded             409  the version is known but no engine holds it
    ├── VersionExists         409  other bytes have this name, or had it before they were deleted
    ├── VersionActive         409  the active version cannot be deleted
    ├── VersionPinned         409  an operator, a canary or a shadow holds the version
    ├── LostRace              409  a compare-and-set lost; says what is active
    └── NoPrevious            409  nothing to roll back to

Every class is one row of the table: `code` (stable, for programs), `status` (HTTP), `title` (one for the class). The
message of an instance is one sentence for a person and holds no secret. `problem` makes the RFC 9457 body of any of
them, so one handler answers them all.
"""

# Named for what happened, as clients read them in `code`.
# ruff: noqa: N818

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

PROBLEM_MEDIA_TYPE = "application/problem+json"


class FieldError(TypedDict):
    """One wrong field: a JSON pointer (RFC 6901) into the request body, and why."""

    pointer: str
    detail: str


def pointer(*steps: str | int) -> str:
    """The JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


class ServiceError(Exception):
    """Root of every error raised by `service`; `str(error)` is the sentence for a person."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to this error."""
        return {}

    @property
    def members(self) -> dict[str, Any]:
        """Members of the problem document beyond the standard ones; JSON values."""
        return {}


class SettingsError(ServiceError):
    """A setting cannot be used; the sentence names the variable and, unless it is a secret, its value."""

    code = "bad_settings"
    title = "Bad settings"


class BadRequest(ServiceError):
    """Fields of the request are wrong."""

    code = "bad_request"
    status = 422
    title = "Bad request"

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)

    @property
    def members(self) -> dict[str, Any]:
        return {"errors": self.errors}


class BadK(BadRequest):
    """`k` is above what the model's largest beam can give."""

    code = "bad_k"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, [FieldError(pointer="/k", detail=detail)])


class BadBeamWidth(BadRequest):
    """The model was exported without this beam width."""

    code = "bad_beam_width"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, [FieldError(pointer="/beam_width", detail=detail)])


class BadFilter(BadRequest):
    """An attribute the catalog does not have, or a value its type does not allow."""

    code = "bad_filter"


class BadItem(BadRequest):
    """An item that cannot be added, or attributes that cannot be set."""

    code = "bad_item"


class UnknownItem(ServiceError):
    code = "unknown_item"
    status = 404
    title = "Unknown item"


class UnknownPrefix(ServiceError):
    code = "unknown_prefix"
    status = 404
    title = "No code begins like that"


class CatalogFull(ServiceError):
    code = "catalog_full"
    status = 409
    title = "No room for another item"


class NoTextEncoder(ServiceError):
    code = "no_text_encoder"
    status = 409
    title = "No text encoder"


class BadJson(ServiceError):
    code = "bad_json"
    status = 400
    title = "Body is not JSON"


class BodyTooLarge(ServiceError):
    code = "body_too_large"
    status = 413
    title = "Body too large"


class RetryLater(ServiceError):
    """Base of the errors that ask to try again in a second."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "1"}  # whole seconds, by RFC 9110


class Overloaded(RetryLater):
    code = "overloaded"
    status = 429
    title = "Overloaded"


class NotReady(RetryLater):
    code = "not_ready"
    status = 503
    title = "Not ready"


class Draining(RetryLater):
    code = "draining"
    status = 503
    title = "Draining"


class DeadlineExceeded(ServiceError):
    code = "deadline_exceeded"
    status = 504
    title = "Deadline exceeded"


class NotFollowed(ServiceError):
    """Redis knows the change, and some replicas did not follow in time; `laggards` are their ids."""

    code = "not_followed"
    status = 504
    title = "Not every replica follows"

    def __init__(self, detail: str, laggards: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.laggards = list(laggards)

    @property
    def members(self) -> dict[str, Any]:
        return {"laggards": self.laggards}


class EngineFailed(ServiceError):
    code = "engine_failed"
    title = "Engine failed"


class EngineCrashed(ServiceError):
    code = "engine_crashed"
    title = "Engine crashed"


class AdminOff(ServiceError):
    code = "admin_off"
    status = 403
    title = "Admin interface is off"


class AdminDenied(ServiceError):
    code = "admin_denied"
    status = 401
    title = "Admin token missing or wrong"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class StoreError(ServiceError):
    """Root of what the store of models raises."""

    code = "store_error"
    title = "Store error"


class StoreUnavailable(StoreError):
    """Redis cannot be reached, or answers that it will not serve; trying again later may help."""

    code = "store_unavailable"
    status = 503
    title = "Redis unavailable"


class StoreReadOnly(StoreUnavailable):
    """Redis answers and refuses to be written to, by anybody or by this user."""


class CatalogLost(StoreError):
    """Redis has lost the changes of the catalog that are still obeyed here; one more would end them."""

    code = "catalog_lost"
    status = 409
    title = "Redis has lost the catalog's changes"


class StoreCorrupt(StoreError):
    """Something published is missing in part, or differs from its checksum."""

    code = "store_corrupt"
    title = "Published model is corrupt"


class EvictionPolicy(StoreError):
    """Redis is set to evict keys that have no expiry, so it could drop a published model."""

    code = "eviction_policy"
    status = 409
    title = "Redis could evict models"


class BadArtifact(StoreError):
    """The model cannot be published: its name or one of its file names is not allowed, or its files differ."""

    code = "bad_artifact"
    status = 422
    title = "Artifact cannot be published"


class UnknownVersion(StoreError):
    code = "unknown_version"
    status = 404
    title = "Unknown model version"


class NotLoaded(StoreError):
    code = "not_loaded"
    status = 409
    title = "Model version is not loaded"


class VersionExists(StoreError):
    code = "version_exists"
    status = 409
    title = "Model version exists"


class VersionActive(StoreError):
    code = "version_active"
    status = 409
    title = "Model version is active"


class VersionPinned(StoreError):
    code = "version_pinned"
    status = 409
    title = "Model version is held"


class LostRace(StoreError):
    """Another activation came first. `active` is the version that is active now, None when there is none."""

    code = "lost_race"
    status = 409
    title = "Another activation came first"

    def __init__(self, detail: str, active: str | None = None) -> None:
        super().__init__(detail)
        self.active = active

    @property
    def members(self) -> dict[str, Any]:
        return {"active": self.active}


class NoPrevious(StoreError):
    code = "no_previous"
    status = 409
    title = "Nothing to roll back to"


# What an engine may put in `frames.Failure.code`.
ENGINE_FAILURES: Mapping[str, type[ServiceError]] = {
    error.code: error
    for error in (
        *(BadRequest, BadK, BadBeamWidth, BadFilter, BadItem, UnknownItem, UnknownPrefix, CatalogFull, NoTextEncoder),
        *(Overloaded, DeadlineExceeded, Draining, EngineFailed, EngineCrashed),
    )
}


def from_failure(code: str, message: str, errors: Sequence[tuple[str, str]] = ()) -> ServiceError:
    """The error an engine's `Failure` stands for; a code this program does not know is an `EngineFailed`.

    `errors` are (pointer, detail) of wrong fields, for the errors that list them.
    """
    kind = ENGINE_FAILURES.get(code, EngineFailed)
    if errors and issubclass(kind, BadRequest) and kind not in (BadK, BadBeamWidth):
        return kind(message, [FieldError(pointer=pointer, detail=detail) for pointer, detail in errors])
    return kind(message)


def problem(error: ServiceError, request_id: str | None = None) -> dict[str, Any]:
    """The RFC 9457 document of `error`; JSON values, sent as `PROBLEM_MEDIA_TYPE` with `error.status` and `headers`."""
    body: dict[str, Any] = {
        "type": f"urn:prorec:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": str(error) or error.title,
        **error.members,
    }
    if request_id is not None:
        body["request_id"] = request_id
    return body
