"""What load tests and benchmarks cannot do."""


class MisuseError(Exception):
    """The command cannot do what it was asked to; its text is one sentence for whoever asked."""


class RefusedError(MisuseError):
    """The service refused a change, and made none."""


class BenchError(Exception):
    """Something cannot be measured: what was compared is not equal, or a service does not answer as it should."""
