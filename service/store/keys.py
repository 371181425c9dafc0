"""Names of everything in Redis. The namespace is every key's hash tag, so a Cluster keeps a namespace on one node."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """Keys of one namespace.

    active     hash: version, epoch, previous (names, newest first, with commas), token of the last change
    versions   hash: version → `Published` as JSON; what is not in here does not exist
    uploads    hash: upload → `Published` as JSON; uploads under way, and remains to be removed
    events     stream, capped: one entry for each change of `active`
    changes    channel: "VERSION EPOCH" for each change of `active`
    """

    namespace: str

    @property
    def active(self) -> str:
        return self._key("active")

    @property
    def versions(self) -> str:
        return self._key("versions")

    @property
    def uploads(self) -> str:
        return self._key("uploads")

    @property
    def events(self) -> str:
        return self._key("events")

    @property
    def changes(self) -> str:
        return self._key("changes")

    def manifest(self, version: str) -> str:
        """String: `Record` as JSON."""
        return self._key(f"v:{version}:manifest")

    def lease(self, upload: str) -> str:
        """String that expires: this upload is under way."""
        return self._key(f"upload:{upload}")

    def chunk(self, version: str, upload: str, file: str, number: int) -> str:
        """String: bytes of one chunk."""
        return self._key(f"v:{version}:{upload}:{file}:{number}")

    def _key(self, name: str) -> str:
        return f"{{{self.namespace}}}:{name}"
