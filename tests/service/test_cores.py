"""Cores for engines alone: what a list names, and lists that are refused."""

import os

import pytest

from service.cores import Shares, listed, parse
from service.errors import SettingsError
from tests.marks import needs_two_cores


@pytest.mark.parametrize(("text", "cores"), [("3", {3}), ("0,2", {0, 2}), ("4-6,1", {1, 4, 5, 6}), ("2-2", {2})])
def test_a_list_names_cores(text: str, cores: set[int]) -> None:
    assert parse(text) == cores == parse(listed(cores))


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "1 2", "0x1", "99999"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must list cores, such as 2-7 or 0,4"):
        parse(text)


def test_a_list_of_no_core_is_refused() -> None:
    with pytest.raises(ValueError, match="names no core"):
        parse("6-4")


def test_a_core_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"PROREC_ENGINE_CORES=9998-9999: this process may not use 9998,9999, only"):
        Shares.of("9998-9999")


def test_no_core_for_anything_else_is_refused() -> None:
    with pytest.raises(SettingsError, match="no core is left for HTTP workers"):
        Shares.of(listed(os.sched_getaffinity(0)))


@needs_two_cores
def test_everything_else_gets_the_other_cores() -> None:
    *rest, last = sorted(os.sched_getaffinity(0))
    assert Shares.of(str(last)) == Shares(frozenset({last}), frozenset(rest))
