"""What the operations guide says of metrics, settings and errors is held against the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from models.artifact import SCHEMA_VERSION
from service.api import problems
from service.errors import ServiceError
from service.settings import Settings, variable

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs/operations.md").read_text()


def section(title: str) -> str:
    return GUIDE.split(f" {title}\n")[1].split("\n## ")[0]


def errors(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield kind
    for further in kind.__subclasses__():
        yield from errors(further)


def alert_rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load((ROOT / "deploy/alerts.yaml").read_text())["groups"]
    rules: list[dict[str, str]] = group["rules"]
    return rules


def test_every_metric_is_explained_and_no_other() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    counted = {name.removesuffix("_total") for name in re.findall(r'"(prorec_[a-z_]+)"', sources)}
    table = section("Monitoring").split("| `/health/ready` |")[0]
    assert {name.removesuffix("_total") for name in re.findall(r"`(prorec_[a-z_]+)`", table)} == counted


def test_every_alert_is_explained_and_no_other() -> None:
    table = section("Monitoring").split("| alert |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [rule["alert"] for rule in alert_rules()]


def test_no_alert_is_raised_by_what_passes() -> None:
    """An expression without a range of time is one of the moment, and such a state has to last."""
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    assert [rule["alert"] for rule in rules if "[" not in rule["expr"] and "for" not in rule] == []


def test_settings_it_names_exist() -> None:
    assert set(re.findall(r"PROREC_[A-Z_]+", GUIDE)) <= {variable(field) for field in Settings.model_fields}


def test_errors_it_explains_have_these_statuses() -> None:
    assert problems.BadHttp in errors()  # those of the interface are there, too
    known = {error.code: error.status for error in errors()}
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (\d+(?:, \d+)*) \|", section("Troubleshooting"), re.MULTILINE)
    assert len(rows) > 8
    for codes, statuses in rows:
        named, told = re.findall(r"`(\w+)`", codes), [int(status) for status in statuses.split(", ")]
        assert [known[code] for code in named] == (told * len(named) if len(told) == 1 else told), codes


def test_the_schema_it_names_is_read() -> None:
    assert f"(`models/artifact.py`, now {SCHEMA_VERSION})" in GUIDE
