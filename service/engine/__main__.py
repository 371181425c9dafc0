"""`python -m service.engine --artifact DIR --socket PATH`: serves one artifact until SIGTERM or the end of stdin.

How far the start is is told on stdout, a line for each stage: `stage verifying`, `loading`, `warming`, `ready`.
"""

import argparse
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from .quiet import LOWEST, quiet_thread

_SWITCH_INTERVAL_S = 0.0005


def main() -> int:
    """Exit code: 0 after a drain, 1 for an engine that could not start or lost its device."""
    options = _parse()
    if options.background:
        os.nice(LOWEST)
    # The search thread must not wait Python's usual 5 ms for the interpreter when a run ends.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with quiet_thread() as quietly:
        quietly(partial(import_module, "service.engine.process"))  # a second of work, beside engines that serve
        from .process import load_quietly, serve

        engine = load_quietly(options.artifact, options.socket, quietly)
    return 1 if engine is None else serve(engine, options.socket)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.engine", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR", help="folder of the artifact to serve")
    parser.add_argument(
        "--socket", type=Path, required=True, metavar="PATH", help="Unix socket to listen on when ready"
    )
    parser.add_argument("--background", action="store_true", help="lowest priority, for an engine nobody waits for")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
