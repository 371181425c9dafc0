"""Errors of the model core.

ModelError
├── CodeError        a code table breaks its rules
├── TrieError        trie arrays contradict each other
├── ItemEncodingError   something given for a new item cannot be encoded
└── ArtifactError    an artifact cannot be used
    ├── ArtifactSchemaError    it was written by another schema version
    ├── ArtifactCorruptError   a file is missing or a byte differs from its checksum
    ├── NoItemEncoderError     it was exported without an item encoder
    └── NoTextEncoderError     it was exported without a text encoder, or `tokenizers` is not installed
"""


class ModelError(Exception):
    """Root of every error raised by `models`."""


class CodeError(ModelError):
    """A code table has a wrong shape, a token out of range or two items with one code."""


class TrieError(ModelError):
    """The arrays of a code trie contradict each other."""


class ItemEncodingError(ModelError):
    """Something given for a new item cannot be encoded: an embedding of another width, a value that is not finite."""


class ArtifactError(ModelError):
    """An artifact cannot be used."""


class ArtifactSchemaError(ArtifactError):
    """An artifact was written by a schema version this program does not read."""


class ArtifactCorruptError(ArtifactError):
    """A file of an artifact is missing, truncated or differs from its checksum."""


class NoItemEncoderError(ArtifactError):
    """An artifact was exported without an item encoder, so no item can be added to it."""


class NoTextEncoderError(ArtifactError):
    """An artifact cannot turn text into embeddings: it holds no text encoder, or a library is missing."""
