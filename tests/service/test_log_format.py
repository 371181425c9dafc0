"""Log lines for people and for programs, as a process of a replica writes them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

_PROGRAM = """
import logging
from service.log_format import configure_logging, log_fields
from service.settings import Settings

configure_logging(Settings(), "engine")
logger = logging.getLogger("service.engine")
logger.debug("too quiet")
logger.warning("before %s", "é")
with log_fields(request_id="r-1", trace_id=None):
    logger.info("within", extra={"status": 200})
    try:
        raise ValueError("two\\nlines")
    except ValueError:
        logger.exception("failed")
logger.info("after")
"""


def lines(**variables: str) -> list[str]:
    environment = os.environ | variables
    done = subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert not done.stdout
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def objects() -> list[dict[str, object]]:
    return [json.loads(line) for line in lines(PROREC_LOG_FORMAT="json")]


def test_text_is_one_line_for_people() -> None:
    found = lines()
    assert found[:3] == [
        "WARNING service.engine: before é",
        "INFO service.engine: within",
        "ERROR service.engine: failed",
    ]
    assert found[-1] == "INFO service.engine: after"


def test_json_is_one_object_a_line(objects: list[dict[str, object]]) -> None:
    assert [line["message"] for line in objects] == ["before é", "within", "failed", "after"]
    first = objects[0]
    assert (first["level"], first["logger"], first["role"]) == ("WARNING", "service.engine", "engine")
    assert isinstance(first["pid"], int)
    age = datetime.now(UTC) - datetime.fromisoformat(str(first["time"]))
    assert 0 <= age.total_seconds() < 600


def test_fields_are_there_within_their_block_only(objects: list[dict[str, object]]) -> None:
    assert [line.get("request_id") for line in objects] == [None, "r-1", "r-1", None]
    assert "trace_id" not in objects[1]
    assert objects[1]["status"] == 200


def test_a_traceback_is_part_of_its_object(objects: list[dict[str, object]]) -> None:
    assert "ValueError: two\nlines" in str(objects[2]["exc_info"])
