"""Errors of the training package.

TrainingError
├── DataError          rows of an input file cannot be used; `path:line: ` and a sentence for each
├── DatasetTooSmall    nothing could be learned or measured
├── ConfigError        an argument or setting cannot be used
├── FetchError         a public dataset could not be downloaded
└── ExportError        a trained model cannot become an artifact
"""


class TrainingError(Exception):
    """Root of every error raised by `training`."""


class DataError(TrainingError):
    """Rows of an input file cannot be used; the message is `path:line: ` and a sentence for each, a line a row."""

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(sentences))

    @classmethod
    def at(cls, path: object, line: int, sentence: str) -> "DataError":
        """That of one row."""
        return cls(f"{path}:{line}: {sentence}")


class DatasetTooSmall(TrainingError):  # noqa: N818, it names a state and not a fault
    """A dataset has too few events to train on or to measure with."""


class ConfigError(TrainingError):
    """An argument or setting cannot be used, such as a folder without the files it should hold."""


class FetchError(TrainingError):
    """A public dataset could not be downloaded."""


class ExportError(TrainingError):
    """A trained model cannot be turned into an artifact that behaves the same."""
