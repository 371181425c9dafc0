"""What processes of a replica are told: all settings, and of secrets no more than they need."""

from collections.abc import Callable

import pytest

from service.settings import Settings
from service.supervisor.processes import METRICS_FOLDER, environment, without_secrets


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_engines_are_told_no_secret_whatever_the_case_of_its_variable(
    case: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("prorec_admin_token", "secret"), ("prorec_redis_url", "redis://:secret@redis/0")):
        monkeypatch.setenv(case(name), value)
    variables = environment(Settings(), "/metrics")
    assert [name for name in variables if "admin_token" in name.lower()] == ["PROREC_ADMIN_TOKEN"]
    assert variables["PROREC_ADMIN_TOKEN"] == "secret"
    assert variables[METRICS_FOLDER] == "/metrics"
    told = {name.upper() for name in without_secrets(variables)}
    assert not told & {"PROREC_ADMIN_TOKEN", "PROREC_REDIS_URL"}
