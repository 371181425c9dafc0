"""What a training tells while it runs."""

import logging
import sys


def log_to_stderr() -> None:
    """Messages of this package from INFO on, of libraries from WARNING on, as plain lines."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger(__package__).setLevel(logging.INFO)
