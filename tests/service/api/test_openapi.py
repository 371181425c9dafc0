"""The interface's document: complete, valid, and the same as the file that clients are made from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from typer.testing import CliRunner

from service.__main__ import app as command_line
from service.api.openapi import export

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(export())
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield f"{method.upper()} {path}", operation


def test_the_file_is_what_the_code_says(document: dict[str, Any]) -> None:
    written = json.loads(FILE.read_text())
    differing = [key for key in {*document, *written} if document.get(key) != written.get(key)]
    assert not differing, "docs/openapi.json is not what the code says; write it anew with 'make openapi'"


def test_it_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_the_command_writes_it(tmp_path: Path, document: dict[str, Any]) -> None:
    result = CliRunner().invoke(command_line, ["openapi", "--output", str(tmp_path / "openapi.json")])
    assert (result.exit_code, result.output) == (0, "")
    assert json.loads((tmp_path / "openapi.json").read_text()) == document
    printed = CliRunner().invoke(command_line, ["openapi"])
    assert json.loads(printed.output) == document


def test_no_setting_changes_it(document: dict[str, Any]) -> None:
    result = CliRunner().invoke(command_line, ["openapi"], env={"PROREC_PORT": "9", "PROREC_ADMIN_TOKEN": "secret"})
    assert json.loads(result.output) == document


def test_every_operation_says_what_it_does_and_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    found = dict(operations(document))
    assert all(operation["description"] for operation in found.values())
    assert len({operation["operationId"] for operation in found.values()}) == len(found)


def test_every_answer_and_every_body_has_an_example(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    def exemplified(content: dict[str, Any]) -> bool:
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        return "example" in content or "example" in schemas.get(name, {})

    for name, operation in operations(document):
        bodies = [operation.get("requestBody", {"content": {}})]
        answers = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
        for content in (content for one in bodies + answers for content in one.get("content", {}).values()):
            assert exemplified(content), name


def test_every_error_an_operation_names_is_a_problem_with_an_example(document: dict[str, Any]) -> None:
    examples = document["components"]["examples"]
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            problem = answer.get("content", {}).get("application/problem+json")
            if status[0] in "45" and problem:
                assert problem["examples"], name
                for code in problem["examples"]:
                    assert str(examples[code]["value"]["status"]) == status
        assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_what_needs_the_token_says_so(document: dict[str, Any]) -> None:
    secured = {name for name, operation in operations(document) if operation.get("security")}
    assert secured == {
        "DELETE /catalog/items", "GET /catalog/changes", "PATCH /catalog/items", "POST /catalog/items", "GET /events",
        "GET /replicas", "GET /traffic", "PUT /traffic", "GET /models", "GET /models/{version}",
        "DELETE /models/{version}", "POST /models/rollback", "POST /models/{version}/activate",
        "POST /models/{version}/load", "POST /models/{version}/unload",
    }  # fmt: skip
