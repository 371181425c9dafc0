"""What `make quickstart` does with a signal while one of its steps works."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

STEP = """
import os, signal, sys, time
def end(number, _):
    os.write(1, b"told %d\\n" % number)  # print may be where the signal came
    time.sleep(0.5)  # a second signal would be told too
    sys.exit(7)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, end)
os.write(1, b"working\\n")
time.sleep(60)
"""
QUICKSTART = (
    "import sys; from deploy import quickstart; quickstart._step('a step', [sys.executable, '-c', sys.argv[1]])"
)


@contextmanager
def working(*before: str) -> "Iterator[subprocess.Popen[str]]":
    """The quickstart in a session of its own, with a step at work; what it prints from then on can be read."""
    as_in_a_shell = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # also where tests run under nohup
    program = "; ".join([as_in_a_shell, *before, QUICKSTART])
    started = [sys.executable, "-c", program, STEP]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["\n", "── a step\n", "working\n"]
        yield process


def told(process: "subprocess.Popen[str]") -> str:
    """What the step was told until it ended."""
    assert process.stdout is not None
    return process.stdout.read()


@pytest.mark.parametrize("send", [os.kill, os.killpg])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_step_is_told_once_what_ends_us_and_ends_in_its_own_way(
    send: Callable[[int, int], None], number: signal.Signals
) -> None:
    """By a terminal, which tells the whole process group, or by somebody who tells our process alone."""
    with working() as process:
        send(process.pid, number)
        assert told(process) == f"told {number.value}\n"
        assert process.wait(10) == 7


def test_under_nohup_the_end_of_a_terminal_reaches_no_step() -> None:
    with working("import signal", "signal.signal(signal.SIGHUP, signal.SIG_IGN)") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert told(process) == f"told {signal.SIGTERM.value}\n"


def test_a_shell_s_background_job_can_be_interrupted_too() -> None:
    """It is started with SIGINT ignored."""
    with working("import signal", "signal.signal(signal.SIGINT, signal.SIG_IGN)") as process:
        process.send_signal(signal.SIGINT)
        assert told(process) == f"told {signal.SIGINT.value}\n"


def test_between_steps_a_signal_ends_us() -> None:
    program = f"{QUICKSTART}; import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('went on')"
    ended = subprocess.run([sys.executable, "-c", program, ""], capture_output=True, text=True, check=False)
    assert (ended.returncode, "went on" in ended.stdout) == (-signal.SIGTERM, False)


def test_a_step_that_a_signal_ends_gives_the_exit_code_of_a_shell() -> None:
    step = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    ended = subprocess.run([sys.executable, "-c", QUICKSTART, step], stdout=subprocess.PIPE, check=False)
    assert ended.returncode == 128 + signal.SIGKILL
