"""What the compose files say of the service, held against the service."""

import json
from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings, variable

DEPLOY = Path(__file__).parents[2] / "deploy"


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())["services"]["service"]
    return found


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def test_only_what_the_containers_depend_on_wins_over_the_file_of_settings() -> None:
    """What stands under `environment` cannot be set in service.env."""
    given = service("compose.yaml")["environment"]
    assert given.keys() == {variable(name) for name in ("redis_url", "host", "port")}
    fields = {variable(field): field for field in Settings.model_fields}
    Settings(**{fields[key]: value for key, value in given.items()})
    assert "environment" not in service("compose.gpu.yaml")


def test_the_image_for_gpus_has_what_the_dockerfile_says() -> None:
    extras = service("compose.gpu.yaml")["build"]["args"]["EXTRAS"]
    assert f"--build-arg EXTRAS={extras} " in (DEPLOY.parent / "Dockerfile").read_text()


def test_a_stop_leaves_a_drain_its_time() -> None:
    settings = Settings()
    grace = float(service("compose.yaml")["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_notice_s + settings.drain_timeout_s


def test_settings_of_ones_own_are_read_from_a_file_that_git_does_not_keep() -> None:
    (given,) = service("compose.yaml")["env_file"]
    assert given == {"path": "service.env", "required": False}
    assert "deploy/service.env" in (DEPLOY.parent / ".gitignore").read_text().split()


def test_nothing_is_open_to_the_network_unasked() -> None:
    (port,) = service("compose.yaml")["ports"]
    assert (
        port
        == "${PROREC_BIND:-127.0.0.1}:${PROREC_PORT:-8000}:" + service("compose.yaml")["environment"]["PROREC_PORT"]
    )
    redis = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["redis"]
    assert "ports" not in redis, json.dumps(redis)


def test_the_image_is_for_machines_that_its_packages_have_wheels_for() -> None:
    (pod,) = (found["spec"]["template"]["spec"] for found in manifests() if found["kind"] == "Deployment")
    assert service("compose.yaml")["platform"] == "linux/" + pod["nodeSelector"]["kubernetes.io/arch"] == "linux/amd64"
