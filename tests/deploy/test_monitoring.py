"""Alerts and dashboard held against what a replica exports, and the files that bring them up against each other."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase

from service import metrics
from service.api.engine_client import Router
from service.api.exposition import _Known

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGET_LABELS = {"job", "instance"}  # Prometheus adds them to everything it scrapes
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def families() -> Iterator[tuple[Metric, set[str]]]:
    """Everything a replica exports, and the labels of each."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            yield next(iter(metric.describe())), set(metric._labelnames)
    for family in _Known(Router(1)).collect():
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        yield family, set(family._labelnames)


def series() -> dict[str, set[str]]:
    """Their series as Prometheus names them, and what each can be told apart by."""
    return {
        family.name + suffix: labels | TARGET_LABELS | ({"le"} if suffix == "_bucket" else set())
        for family, labels in families()
        for suffix in SUFFIXES[family.type]
    }


def alerts() -> list[dict[str, Any]]:
    (group,) = load("alerts.yaml")["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def queries() -> list[str]:
    """Of alerts, panels, annotations and variables."""
    variables = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:]]
    return [
        *(rule["expr"] for rule in alerts()),
        *(target["expr"] for panel in PANELS for target in panel["targets"]),
        *(annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]),
        *variables,
    ]


def names(query: str) -> set[str]:
    return set(re.findall(r"prorec_\w+", query))


def grouped(query: str) -> set[str]:
    """Labels by which it sums up or matches."""
    return {label for found in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in found.split(", ")}


@pytest.mark.parametrize("query", queries())
def test_a_query_names_what_a_replica_exports(query: str) -> None:
    exported = series()
    assert names(query) <= exported.keys()
    for name, matchers in re.findall(r"(prorec_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)[=!]", matchers)) <= exported[name], name
    assert grouped(query) <= set().union(*(exported[name] for name in names(query)))


@pytest.mark.parametrize("query", queries())
def test_only_what_counts_has_a_rate(query: str) -> None:
    counted = re.findall(r"(?:rate|increase|changes)\((\w+)", query)
    assert [name for name in counted if not name.endswith(("_total", "_bucket", "_sum", "_count"))] == []


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_of_which_deployment(rule: dict[str, Any]) -> None:
    assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert "{{ $labels.job }}" in rule["annotations"]["summary"]
    assert all("job" in found for found in re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"]))


def test_every_metric_has_a_place_on_the_dashboard() -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name in names(target["expr"])}
    assert [
        family.name for family, _ in families() if not any(family.name + end in shown for end in SUFFIXES[family.type])
    ] == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_shows_the_chosen_replicas_of_one_deployment(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        selectors = re.findall(r"prorec_\w+(\{[^}]*\})?", target["expr"])
        assert set(selectors) == {'{job="$job", instance=~"$instance"}'}
        told = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
        assert told <= (grouped(target["expr"]) or TARGET_LABELS | series()[names(target["expr"]).pop()])
    assert panel["description"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_lie_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


# ---- what brings them up


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load("compose.monitoring.yaml")["services"][name]
    return found


def mounted(name: str) -> dict[str, Path]:
    """Path in the container → file of the repository."""
    words = [volume.split(":") for volume in service(name)["volumes"] if volume.startswith("./")]
    assert all(word[2] == "ro" for word in words)
    return {word[1]: DEPLOY / word[0] for word in words}


def test_prometheus_scrapes_the_service_and_finds_the_alerts() -> None:
    files = mounted("prometheus")
    assert files["/etc/prometheus/prometheus.yml"] == DEPLOY / "prometheus.yaml"
    (rules,) = load("prometheus.yaml")["rule_files"]
    assert files[f"/etc/prometheus/{rules}"] == DEPLOY / "alerts.yaml"
    (job,) = load("prometheus.yaml")["scrape_configs"]
    compose = load("compose.yaml")["services"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert compose[name]["environment"]["PROREC_PORT"] == port


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    files = mounted("grafana")
    assert files["/etc/grafana/provisioning/datasources/prorec.yaml"] == DEPLOY / "grafana/datasource.yaml"
    assert files["/etc/grafana/provisioning/dashboards/prorec.yaml"] == DEPLOY / "grafana/provider.yaml"
    (source,) = load("grafana/datasource.yaml")["datasources"]
    assert source["url"] == "http://prometheus:" + service("prometheus")["ports"][0].rpartition(":")[2]
    assert source["jsonData"]["timeInterval"] == load("prometheus.yaml")["global"]["scrape_interval"]
    (provider,) = load("grafana/provider.yaml")["providers"]
    (dashboard,) = (path for path, file in files.items() if file.suffix == ".json")
    assert dashboard.startswith(provider["options"]["path"] + "/")
    assert files[dashboard].is_file()


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_neither_is_open_to_the_network(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service(name)["ports"])
