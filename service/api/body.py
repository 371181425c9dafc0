"""From a request's bytes to a checked object, or to one clear error."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from starlette.requests import ClientDisconnect, Request

from service.errors import BadJson, BadRequest, BodyTooLarge, FieldError, pointer

MOST_ERRORS: Final = 20  # that are told; of a list no more than the first wrong entry is looked for
MOST_FIELDS: Final = 20  # of one object; each that is unknown is an error, and costs more than a search

_SENTENCES: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}

_SHOULD: Final = re.compile(r"^(Input|String|List|Dictionary|Value) should ")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")  # escaped: in UTF-8 itself there is none

Body = TypeVar("Body", bound=BaseModel)
REQUEST: Final = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def request_with(**example: JsonValue) -> ConfigDict:
    """`REQUEST` for a whole body, with an example of it."""
    return ConfigDict(**REQUEST, json_schema_extra={"example": example})


class Small(BaseModel):
    """What a client sends: an object of few fields. One of far too many is one error, not one for each."""

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MOST_FIELDS:
            sentence = "has {found} fields, at most {most} are allowed"
            raise PydanticCustomError("too_many_fields", sentence, {"found": len(value), "most": MOST_FIELDS})
        return value


def only_known_parameters(request: Request) -> None:
    """Raises BadRequest for a parameter behind the `?` that the route does not have, and would pass by."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    sentence = f"is not a parameter of this path, which takes {', '.join(known)}"
    if wrong := [name for name in request.query_params if name not in known]:
        raise bad_request([FieldError(pointer=pointer(name), detail=sentence) for name in wrong[:MOST_ERRORS]])


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as it is known to be longer than `limit_bytes`."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    body, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        more = message.get("more_body", False)
    return bytes(body)


def parse(body: bytes, model: type[Body]) -> Body:
    """Raises BadJson for what is not JSON (RFC 8259, unique names), BadRequest for JSON that `model` refuses."""
    return check(parse_json(body), model)


def parse_json(body: bytes) -> Any:
    if not body:
        raise BadJson("the body is empty, it must be a JSON object")
    try:
        text = body.decode()
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise BadJson(f"the body is not UTF-8: byte {error.start} cannot be decoded") from None
    except UnicodeEncodeError:
        raise BadJson("the body is not usable JSON: a string holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise BadJson(f"the body is not JSON: {error.msg[0].lower()}{error.msg[1:]} at {place}") from None
    except RecursionError:
        raise BadJson("the body is not usable JSON: it is nested too deep") from None
    except ValueError:  # an integer of more than 4,300 digits
        raise BadJson("the body is not usable JSON: a number has too many digits") from None
    return value


def check(value: Any, model: type[Body]) -> Body:
    """Raises BadRequest, with a JSON pointer for each wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise bad_request([field_error(detail) for detail in error.errors(include_url=False)]) from None


def bad_request(errors: Sequence[FieldError]) -> BadRequest:
    """One error for all wrong fields; its sentence tells the first of them."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return BadRequest(f"{first['pointer'] or 'the body'} {first['detail']}{more}", errors[:MOST_ERRORS])


def field_error(detail: ErrorDetails) -> FieldError:
    """What pydantic says of one field, in this interface's words."""
    sentence = _SENTENCES.get(detail["type"]) or _SHOULD.sub("must ", detail["msg"]).replace(" after validation", "")
    return FieldError(pointer=pointer(*detail["loc"]), detail=sentence[0].lower() + sentence[1:])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadJson(f"the name {twice!r} appears twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise BadJson(f"the body is not JSON: {name} is not a JSON number")


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit_bytes} bytes")
