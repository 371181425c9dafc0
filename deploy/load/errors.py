"""What ends a load test before it has measured anything."""


class MisuseError(Exception):
    """The command cannot do what it was asked to; its text is one sentence for whoever asked."""
