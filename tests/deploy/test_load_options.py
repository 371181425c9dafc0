"""What the load test refuses before it does anything."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.errors import MisuseError
from deploy.load.options import Options
from deploy.load_test import SCENARIOS, app


def refused(*words: str) -> str:
    """What it prints; it must be exit code 2."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    return result.output


@pytest.mark.parametrize("address", ["http://example.org", "http://10.0.0.1:8000", "http://[2001:db8::1]", "nonsense"])
def test_other_machines_are_not_loaded_by_accident(address: str) -> None:
    assert "--anywhere" in refused("steady", "--synthetic", "--address", address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000", "http://localhost", "http://[::1]:1", "http://127.8.8.8"])
def test_this_machine_may_be_loaded(address: str) -> None:
    Options(address).check()


def test_other_machines_may_be_loaded_on_request() -> None:
    Options("http://example.org", anywhere=True).check()


def test_a_plot_is_png_or_html() -> None:
    assert ".png or .html" in refused("steady", "--plot", "plot.jpg")


def test_a_plot_without_matplotlib_is_refused_before_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what Python itself does for a module that must not be there
    assert "pip install 'prorec-serve[load]'" in refused("steady", "--plot", "plot.png")


def test_a_report_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "there is no folder" in refused("steady", "--json", str(tmp_path / "none" / "report.json"))


def test_a_report_that_cannot_be_written_is_refused_before_the_load(tmp_path: Path) -> None:
    output = " ".join(refused("steady", "--json", str(tmp_path)).split())
    assert "cannot be written: Is a directory" in output
    earlier = tmp_path / "report.json"
    earlier.write_text("of before")
    Options(json=earlier, plot=tmp_path / "plot.html").check()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.json": "of before"}


def test_changing_the_service_needs_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROREC_ADMIN_TOKEN", raising=False)
    assert "PROREC_ADMIN_TOKEN" in refused("churn", "--synthetic")


@pytest.mark.parametrize("options", [Options(), Options(data=Path("somewhere"), synthetic=True)])
def test_histories_come_from_one_source(options: Options) -> None:
    with pytest.raises(MisuseError, match="give one of the two"):
        options.check_histories()


@pytest.mark.parametrize("kind", SCENARIOS)
def test_every_scenario_explains_itself(kind: type) -> None:
    result = CliRunner().invoke(app, [kind.__name__.lower(), "--help"])
    assert result.exit_code == 0
    assert "--slo-ms" in result.output
    assert " ".join((kind.__doc__ or "").split()[:3]) in result.output
