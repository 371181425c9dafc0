"""What a load test cannot do; before it has measured anything it ends as wrong use, and later with its report."""


class MisuseError(Exception):
    """The command cannot do what it was asked to; its text is one sentence for whoever asked."""


class RefusedError(MisuseError):
    """The service refused a change, and made none."""
