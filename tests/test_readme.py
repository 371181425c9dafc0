"""What documents say of settings, routes, presets and modules is held against the code, and where they point to."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.api.openapi import export
from service.api.schemas import RecommendRequest
from service.errors import ServiceError
from service.settings import Settings, variable
from training.__main__ import app as training_cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
API, SETTINGS, TRAINING, TREE = (
    (ROOT / f"docs/{name}.md").read_text() for name in ("api", "settings", "training", "tree")
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_points_to_is_there(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
        path, _, heading = target.partition("#")
        there = document.parent / path if path else document
        assert there.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


def test_every_document_is_named_in_the_readme() -> None:
    readme = DOCUMENTS[0].read_text()
    assert not [path for path in DOCUMENTS[1:] if f"(docs/{path.name})" not in readme]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_stands_in_the_table_with_its_default(field: str) -> None:
    default = Settings.model_fields[field].default
    shown = "–" if default is None else f"`{default}`"
    assert f"| `{variable(field)}` | {shown} |" in SETTINGS


def test_the_table_names_no_setting_that_is_none() -> None:
    known = {variable(field) for field in Settings.model_fields}
    assert set(re.findall(r"^\| `(PROREC_\w+)`", SETTINGS, re.MULTILINE)) == known


def test_the_tree_names_every_module_and_no_other() -> None:
    named: set[str] = set()
    folder = ""
    for line in re.findall(r"^(?:  )*\S+.*$", TREE.split("```")[1], re.MULTILINE):
        name = line.split()[0]
        if name.endswith("/"):
            folder = name
        elif name.endswith(".py"):
            named.add(folder + name)
    files = {
        str(path.relative_to(ROOT))
        for package in ("models", "training", "service", "deploy")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert named == files


def test_every_route_stands_in_the_tables() -> None:
    paths: dict[str, dict[str, object]] = json.loads(export())["paths"]
    named = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?\s]+)[^`\n]*`", API))
    there = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    assert there <= named
    assert named <= there


def test_every_error_of_a_worker_stands_in_the_table_with_its_status() -> None:
    table = API.split("| code | status | when |")[1].split("\n\n")[0]
    named: dict[str, int] = {}
    for codes, statuses in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", table, re.MULTILINE):
        of_row, status = re.findall(r"`(\w+)`", codes), [int(each) for each in statuses.split(", ")]
        named |= dict(zip(of_row, status * len(of_row) if len(status) == 1 else status, strict=True))
    of_commands = {"bad_settings", "bad_artifact", "eviction_policy", "version_exists"}
    there = {error.code: error.status for error in errors(ServiceError) if error.code not in of_commands}
    assert named == there


def errors(root: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield root
    for kind in root.__subclasses__():
        yield from errors(kind)


def test_every_field_of_a_recommendation_stands_in_the_table() -> None:
    table = API.split("| field | default | meaning |")[1].split("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert named == {field.alias or name for name, field in RecommendRequest.model_fields.items()}


@pytest.mark.parametrize(
    "command", ["run", "prepare", "train", "export", "refit", "evaluate", "study", "fetch", "import"]
)
def test_every_training_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(training_cli, [command, "--help"])
    assert result.exit_code == 0
    assert len(result.output) > 200


def test_the_presets_named_are_those_there_are() -> None:
    from training.config import PRESETS

    assert (
        "`--preset` is " + ", ".join(f"`{name}`" for name in list(PRESETS)[:-1]) + f" or `{list(PRESETS)[-1]}`"
        in TRAINING
    )
