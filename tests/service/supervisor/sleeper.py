"""A process that waits for SIGTERM or the end of stdin, in the place of an engine's; run as a program."""

import sys

if __name__ == "__main__":
    sys.stdin.read()
