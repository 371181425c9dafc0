"""What the README says of settings and routes, and docs/tree.md of modules, is held against the code."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.api.openapi import export
from service.api.schemas import RecommendRequest
from service.settings import Settings, variable
from training.__main__ import app as training_cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TREE = (ROOT / "docs/tree.md").read_text()


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_stands_in_the_table_with_its_default(field: str) -> None:
    default = Settings.model_fields[field].default
    shown = "–" if default is None else f"`{default}`"
    assert f"| `{variable(field)}` | {shown} |" in README


def test_the_table_names_no_setting_that_is_none() -> None:
    known = {variable(field) for field in Settings.model_fields}
    assert set(re.findall(r"^\| `(PROREC_\w+)`", README, re.MULTILINE)) == known


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
    named = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?\s]+)[^`\n]*`", README))
    there = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    assert there <= named
    assert named <= there


def test_every_field_of_a_recommendation_stands_in_the_table() -> None:
    table = README.split("| field | default | meaning |")[1].split("\n\n")[0]
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
        in README
    )
