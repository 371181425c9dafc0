"""Errors of the model core.

ModelError
├── CodeError        a code table breaks its rules
├── TrieError        trie arrays contradict each other
└── ArtifactError    an artifact cannot be used
    ├── ArtifactSchemaError    it was written by another schema version
    └── ArtifactCorruptError   a file is missing or a byte differs from its checksum
"""


class ModelError(Exception):
    """Root of every error raised by `models`."""


class CodeError(ModelError):
    """A code table has a wrong shape, a token out of range or two items with one code."""


class TrieError(ModelError):
    """The arrays of a code trie contradict each other."""


class ArtifactError(ModelError):
    """An artifact cannot be used."""


class ArtifactSchemaError(ArtifactError):
    """An artifact was written by a schema version this program does not read."""


class ArtifactCorruptError(ArtifactError):
    """A file of an artifact is missing, truncated or differs from its checksum."""
