"""Open-loop load: what the load test (`deploy.load_test`) and the benchmarks are made of."""

from .phase import Phase
from .traffic import Load

__all__ = ["Load", "Phase"]
