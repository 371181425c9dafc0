"""What a training tells while it runs."""

import subprocess
import sys

CODE = """
import logging
from training.log import log_to_stderr
log_to_stderr()
for name in ("training.loop", "some.library"):
    logging.getLogger(name).info("%s goes on", name)
    logging.getLogger(name).warning("%s warns", name)
"""


def test_of_libraries_warnings_alone_are_told() -> None:
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines() == ["training.loop goes on", "training.loop warns", "some.library warns"]
    assert ended.stdout == ""
