"""Errors of the benchmarks."""


class BenchError(Exception):
    """Something cannot be measured, or what was compared is not equal."""
