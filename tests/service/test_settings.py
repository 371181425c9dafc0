"""Settings: read from the environment, refused in one sentence."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
from service.settings import Settings, unknown_variables, variable


def test_every_setting_has_a_default() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.redis_url, settings.data_dir) == (
        "127.0.0.1",
        8000,
        None,
        Path("var"),
    )
    assert settings.admin_token is None


def test_a_variable_sets_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROREC_PORT", "9000")
    monkeypatch.setenv("PROREC_DATA_DIR", "/tmp/x")
    assert (Settings().port, Settings().data_dir) == (9000, Path("/tmp/x"))


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROREC_ADMIN_TOKEN", "")
    monkeypatch.setenv("PROREC_PORT", "")
    assert (Settings().admin_token, Settings().port) == (None, 8000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", "no-port"),
        ("port", "65536"),
        ("workers", "0"),
        ("provider", "tpu"),
        ("namespace", "{curly}"),
        ("namespace", "new\nline"),
        ("poll_interval_s", "0"),
        ("poll_interval_s", "nan"),
        ("drain_timeout_s", "inf"),
        ("log_level", "loud"),
        ("precision", "fp8"),
        ("precision_overlap_percent", "101"),
        ("engine_cores", "all"),
        ("engine_cores", "3-1"),
    ],
)
def test_an_error_names_the_variable_and_its_value(field: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(field), value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert str(caught.value).startswith(f"{variable(field)}={value}: ")


def test_all_wrong_variables_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"PROREC_PORT=-1.*; PROREC_WORKERS=0"):
        Settings(port=-1, workers=0)


def test_a_default_timeout_above_the_largest_is_refused() -> None:
    with pytest.raises(SettingsError, match="PROREC_DEFAULT_TIMEOUT_MS=2 is above PROREC_MAX_TIMEOUT_MS=1"):
        Settings(default_timeout_ms=2, max_timeout_ms=1)


def test_what_kubernetes_puts_in_place_of_the_port_is_explained() -> None:
    with pytest.raises(SettingsError, match="enableServiceLinks"):
        Settings(port="tcp://10.0.0.1:8000")


@pytest.mark.parametrize("token", ["secret\n", " led by a space", "schlüssel", "a\x00b"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_printed(token: str) -> None:
    with pytest.raises(SettingsError, match="PROREC_ADMIN_TOKEN: must be printable ASCII") as caught:
        Settings(admin_token=token)
    assert token not in str(caught.value)
    assert Settings(admin_token="two words").admin_token == "two words"


def test_secrets_are_not_printed() -> None:
    settings = Settings(redis_url="redis://:hunter2@host", admin_token="hunter2")
    assert "hunter2" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        Settings(admin_token=["hunter2"])
    assert "hunter2" not in str(caught.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_a_misspelt_variable_is_told_with_a_guess() -> None:
    told = unknown_variables({"PROREC_REDIS_ULR": "x", "PROREC_PORT": "1", "HOME": "/"})
    assert told == ["PROREC_REDIS_ULR is not a setting; did you mean PROREC_REDIS_URL?"]


def test_the_case_of_letters_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("prorec_port", "9000")
    assert Settings().port == 9000
    assert unknown_variables({"prorec_port": "9000"}) == []
    told = unknown_variables({"prorec_precison": "int8"})
    assert told == ["prorec_precison is not a setting; did you mean PROREC_PRECISION?"]
