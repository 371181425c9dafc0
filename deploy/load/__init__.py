"""Open-loop load: what the load test (`deploy.load_test`) and the benchmarks are made of."""

import sys
from importlib.util import find_spec

if find_spec("ddsketch") is None:
    print("error: to load a service more packages are needed: python -m pip install -e '.[load]'", file=sys.stderr)
    sys.exit(2)

from .phase import Phase
from .traffic import Load

__all__ = ["Load", "Phase"]
