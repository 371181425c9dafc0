"""A process that waits for SIGTERM, in the place of an engine's; run as a program."""

import signal

if __name__ == "__main__":
    signal.sigwait([signal.SIGTERM])
