"""`python -m service.reader --artifact DIR --socket PATH`: answers about one artifact's items until SIGTERM or the end
of stdin."""

import sys

from service.lifetime import parse_options
from service.quiet import LOW, lower_process


def main() -> int:
    """Exit code: 0 after a drain, 1 for a reader that could not start."""
    options = parse_options("service.reader", __doc__)
<<<<<<< HEAD
    lower_process(LOW)  # before a second of imports: whoever recommends goes first
    from .process import serve
=======
    try:
        settings = Settings()
        configure_logging(settings, "reader")
        check_socket_path(options.socket)
        # A look-up must not wait Python's usual 5 ms while a thread scans texts.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        started = time.monotonic()
        items = LiveItems(Artifact.open(options.artifact, verify=False), settings.spare_items)
        items.code(0)  # all codes are checked with the first one that is read: here, and not on the event loop
        info = reader_info(items, time.monotonic() - started)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(Server(items, info), settings, options.socket))
        return 0
    except Exception as error:
        logger.debug("start failed", exc_info=True)
        print(f"the reader could not start: {one_line(error)}", file=sys.stderr)
        return 1
>>>>>>> reviewb

    return serve(options.artifact, options.socket)


if __name__ == "__main__":
    sys.exit(main())
