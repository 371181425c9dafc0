"""`python -m service.reader --artifact DIR --socket PATH`: answers about one artifact's items until SIGTERM or the end
of stdin."""

import sys

from service.lifetime import option_parser
from service.quiet import LOW, lower_process


def main() -> int:
    """Exit code: 0 after a drain, 1 for a reader that could not start."""
    options = option_parser("service.reader", __doc__).parse_args()
    lower_process(LOW)  # before a second of imports: whoever recommends goes first
    from .process import serve

    return serve(options.artifact, options.socket)


if __name__ == "__main__":
    sys.exit(main())
