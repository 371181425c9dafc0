"""Errors: one table, one shape over HTTP."""

import json
import re

from service import errors
from service.errors import BadK, BadRequest, EngineFailed, FieldError, LostRace, Overloaded, ServiceError


def all_errors(root: type[ServiceError] = ServiceError) -> list[type[ServiceError]]:
    return [root, *(error for child in root.__subclasses__() for error in all_errors(child))]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    lines = re.findall(r"^[├└│─ ]*([A-Z]\w+) +(?:(\d{3})\b|says)", errors.__doc__ or "", re.MULTILINE)
    drawn = {name: int(status or 500) for name, status in lines} | {"ServiceError": 500}
    here = [error for error in all_errors() if error.__module__ == errors.__name__]  # routes have errors of their own
    assert drawn | {"StoreError": 500} == {error.__name__: error.status for error in here}


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in all_errors() if "code" in vars(error)]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


def test_a_problem_document_has_what_rfc_9457_asks_for() -> None:
    error = BadRequest("two fields are wrong", [FieldError(pointer="/k", detail="must be positive")])
    assert json.loads(json.dumps(errors.problem(error, "r-1"))) == {
        "type": "urn:prorec:error:bad_request",
        "title": "Bad request",
        "status": 422,
        "code": "bad_request",
        "detail": "two fields are wrong",
        "errors": [{"pointer": "/k", "detail": "must be positive"}],
        "request_id": "r-1",
    }


def test_a_lost_race_says_what_is_active() -> None:
    assert errors.problem(LostRace("lost", "v2"))["active"] == "v2"


def test_whoever_is_to_try_again_hears_in_how_many_seconds() -> None:
    assert Overloaded("full").headers == {"Retry-After": "1"}


def test_an_engines_failure_becomes_its_error() -> None:
    error = errors.from_failure("bad_k", "k 99 is above the largest beam width 50")
    assert isinstance(error, BadK)
    assert error.errors == [{"pointer": "/k", "detail": "k 99 is above the largest beam width 50"}]


def test_a_failure_of_a_newer_engine_is_an_engine_failure() -> None:
    assert type(errors.from_failure("never_heard_of", "?")) is EngineFailed
