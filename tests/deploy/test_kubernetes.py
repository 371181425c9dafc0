"""What the Kubernetes manifests say of the service, held against the service and its image."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from service.api.openapi import export
from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MANIFESTS = {found["kind"]: found for found in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())}
POD = MANIFESTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
ENVIRONMENT: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in CONTAINER["env"]}


def image(pattern: str) -> str:
    found = re.search(pattern, DOCKERFILE)
    assert found
    return found[1]


def settings() -> Settings:
    """Those the manifest gives; where a Secret gives one it does not matter here."""
    fields = {variable(field): field for field in Settings.model_fields}
    return Settings(**{fields[name]: entry["value"] for name, entry in ENVIRONMENT.items() if "value" in entry})


def test_every_variable_is_a_setting_and_secrets_come_from_a_secret() -> None:
    assert ENVIRONMENT.keys() <= {variable(field) for field in Settings.model_fields}
    assert settings().log_format == "json"
    secret = {name for name, entry in ENVIRONMENT.items() if "valueFrom" in entry}
    assert secret == {variable("redis_url"), variable("admin_token")}
    assert "optional" not in ENVIRONMENT[variable("redis_url")]["valueFrom"]["secretKeyRef"]  # else Redis in the pod


def test_the_port_is_the_images_and_everything_leads_to_it() -> None:
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": int(image(r"EXPOSE (\d+)"))}]
    assert [port["targetPort"] for port in MANIFESTS["Service"]["spec"]["ports"]] == ["http"]
    assert POD["spec"]["enableServiceLinks"] is False  # it would set PROREC_PORT


def test_probes_ask_for_what_there_is_and_none_that_restarts_waits_for_a_model() -> None:
    paths = json.loads(export())["paths"]
    asked = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in asked.values()} == {"http"}
    assert {probe["path"] for probe in asked.values()} <= paths.keys()
    assert asked["startup"]["path"] == asked["liveness"]["path"] == "/health/live"
    assert asked["readiness"]["path"] == "/health/ready"


def test_the_end_of_a_pod_is_noticed_before_connections_are_refused_and_has_its_time() -> None:
    given = settings()
    readiness = CONTAINER["readinessProbe"]
    assert given.drain_notice_s > readiness["periodSeconds"] * readiness["failureThreshold"]
    grace = POD["spec"]["terminationGracePeriodSeconds"]
    assert grace >= given.drain_notice_s + given.drain_timeout_s + 10
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["service"]["stop_grace_period"]
    assert grace - given.drain_notice_s >= float(compose.removesuffix("s"))


def test_it_runs_as_the_images_user_without_privileges() -> None:
    pod = POD["spec"]["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == int(image(r"--uid (\d+)"))
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_what_it_writes_to_is_mounted() -> None:
    """The root is read-only; without room in /dev/shm sockets and metrics would go to /tmp."""
    mounted = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounted.keys() == {image(r"PROREC_DATA_DIR=(\S+)"), "/dev/shm"}
    volumes = {volume["name"]: volume["emptyDir"] for volume in POD["spec"]["volumes"]}
    memory = volumes[mounted["/dev/shm"]]
    assert memory["medium"] == "Memory"
    assert int(memory["sizeLimit"].removesuffix("Mi")) >= 2 * 32


def test_what_belongs_to_the_replicas_selects_their_pods() -> None:
    (spread,) = POD["spec"]["topologySpreadConstraints"]
    selectors = [
        MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["Service"]["spec"]["selector"],
        MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ]
    assert all(selector == POD["metadata"]["labels"] for selector in selectors)
