"""Benchmarks of the engine: `python -m deploy.bench`."""

import os

# Read when torch loads its OpenMP. By default an idle thread of torch spins for so long that, with any other process on
# the cores, an eager peer takes a hundred times its time, and ONNX Runtime's threads suffer beside it.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
