"""A program that does what its first argument says; run by a fork."""

import os
import sys


def main(how: str) -> None:
    match how:
        case "tell":
            print(*sys.argv[1:])
            print(os.environ.get(sys.argv[2]))
            print("imported" if "tests.service.supervisor.little_engine" in sys.modules else "not imported")
            print(f"session {os.getsid(0)}")
        case "leave":
            sys.exit(3)
        case "--artifact":  # as an engine of this name ends that cannot start
            print("something odd", "the engine could not start: so it is", sep="\n", file=sys.stderr)
            sys.exit({"never": 2, "not yet": 1}[sys.argv[2]])
        case "sentence":
            sys.exit("no such thing")
        case "raise":
            raise ValueError("wrong")
        case "wait":
            sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
