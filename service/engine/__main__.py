"""`python -m service.engine --artifact DIR --socket PATH`: serves one artifact until SIGTERM or the end of stdin.

How far the start is is told on stdout, a line for each stage: `stage verifying`, `loading`, `warming`, `ready`.
"""

import sys
from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module

from service import quiet
from service.cores import confine, parse
from service.lifetime import option_parser
from service.quiet import LOWEST, NORMAL, Quietly, lower_process, quiet_thread

_SWITCH_INTERVAL_S = 0.0005


def main() -> int:
    """Exit code: 0 after a drain, 1 for an engine that could not start or lost its device, 2 for one that never can."""
    options = read_options()
    if options.cores:  # while there is one thread: others have the cores of the thread that starts them
        confine(parse(options.cores))
    if options.background:
        lower_process(LOWEST)
    # The search thread must not wait Python's usual 5 ms for the interpreter when a run ends.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with start_pace(at_once=options.at_once, background=options.background) as quietly:
        quietly(partial(import_module, "service.engine.process"))  # a second of work, beside engines that serve
        from .process import load_quietly, serve

        engine = load_quietly(options.artifact, options.socket, quietly)
    return engine if isinstance(engine, int) else serve(engine, options.socket)


def read_options() -> Namespace:
    parser = option_parser("service.engine", __doc__)
    parser.add_argument("--background", action="store_true", help="lowest priority, for an engine nobody waits for")
    parser.add_argument(
        "--at-once", action="store_true", help="start at normal priority, where nothing serves that could be disturbed"
    )
    parser.add_argument("--cores", metavar="LIST", help="run on these cores alone, such as 2-7 or 0,2")
    return parser.parse_args()


def start_pace(*, at_once: bool, background: bool) -> AbstractContextManager[Quietly]:
    """How the work of a start is called."""
    return nullcontext(quiet.at_once) if at_once else quiet_thread(LOWEST if background else NORMAL)


if __name__ == "__main__":
    sys.exit(main())
