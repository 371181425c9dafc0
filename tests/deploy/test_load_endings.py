"""How a load test ends that cannot go on, or is told to stop: with what it has, and with everything put back."""

import asyncio
import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from deploy.errors import MisuseError
from deploy.load.admin import put_back
from deploy.load.arrivals import WARM_UP
from deploy.load.options import Options
from deploy.load.session import Session
from deploy.load_test import perform


class Ending:
    """A scenario that needs no service and never breaches."""

    changes_service: ClassVar[bool] = False
    needs_service: ClassVar[bool] = False

    def judge(self, session: Session) -> list[str]:
        del session
        return []


@dataclass
class Refused(Ending):
    """The service refuses a change when something has been counted in `part`."""

    part: str

    async def run(self, session: Session) -> None:
        session.record.part(self.part).failures["503"] += 1
        raise MisuseError("POST /models/v2/activate is 404: it was deleted")


@dataclass
class Restless(Ending):
    """Is told to stop, and once more while it puts back."""

    put_back: bool = field(default=False, init=False)

    async def run(self, session: Session) -> None:
        del session
        try:
            await hear(signal.SIGINT)
        finally:
            await hear(signal.SIGTERM)
            self.put_back = True


@dataclass
class Tidy(Ending):
    """Is told to stop when it has ended, while it puts back."""

    is_back: bool = field(default=False, init=False)

    async def run(self, session: Session) -> None:
        del session
        await put_back(self._tidy())

    async def _tidy(self) -> None:
        await hear(signal.SIGINT)
        self.is_back = True


async def hear(number: signal.Signals) -> None:
    """Returns when the event loop has done what it does at the signal."""
    os.kill(os.getpid(), number)
    for _ in range(20):
        await asyncio.sleep(0)


def test_what_is_refused_in_mid_run_leaves_its_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert perform(Refused("load"), Options(json=path)) == 1
    report = json.loads(path.read_text())
    (breach,) = report["slo"]["breaches"]
    assert breach == "the test could not go on: POST /models/v2/activate is 404: it was deleted"
    assert report["total"]["failed"] == {"503": 1}


def test_failures_are_told_with_their_reasons_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    perform(Refused("load"), Options())
    assert "answered 0, failed 1 {'503': 1}, inconsistent 0\n" in capsys.readouterr().out
    perform(Tidy(), Options())
    assert "answered 0, failed 0, inconsistent 0\n" in capsys.readouterr().out


def test_what_is_refused_before_anything_was_measured_is_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    assert perform(Refused(WARM_UP), Options(json=path)) == 2
    assert "it was deleted" in capsys.readouterr().err
    assert not path.exists()


def test_a_second_signal_does_not_keep_it_from_putting_back() -> None:
    scenario = Restless()
    assert perform(scenario, Options()) == 128 + signal.SIGINT
    assert scenario.put_back


def test_a_signal_while_it_puts_back_is_obeyed_after_that() -> None:
    scenario = Tidy()
    assert perform(scenario, Options()) == 128 + signal.SIGINT
    assert scenario.is_back
