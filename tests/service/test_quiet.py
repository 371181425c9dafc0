"""Priorities of what starts beside whoever serves."""

import os
import threading
import time
from functools import partial

import pytest

from service.quiet import LOW, LOWEST, NORMAL, Quietly, quiet_thread


def priority(quietly: Quietly) -> int:
    return quietly(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))


def test_calls_have_the_lowest_priority_and_who_asks_keeps_its_own() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with quiet_thread() as quietly:
        assert priority(quietly) == LOWEST
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_what_takes_too_long_goes_on_with_a_low_priority() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with quiet_thread(patience_s=0.0) as quietly:
        while priority(quietly) == LOWEST:
            time.sleep(0.001)
        assert priority(quietly) == max(own, LOW)


def test_what_nobody_waits_for_has_the_lowest_for_good() -> None:
    before = threading.active_count()
    with quiet_thread(LOWEST, patience_s=0.0) as quietly:
        assert priority(quietly) == LOWEST
        assert threading.active_count() == before + 1


@pytest.mark.parametrize("afterwards", [NORMAL, LOWEST])
def test_what_fails_is_raised_and_leaves_no_thread(afterwards: int) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="x"), quiet_thread(afterwards) as quietly:
        quietly(partial(int, "x"))
    assert threading.active_count() == before
