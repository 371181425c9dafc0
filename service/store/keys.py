"""Names of everything in Redis. The namespace is every key's hash tag, so a Cluster keeps a namespace on one node."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """Keys of one namespace.

    active     hash: the deployment. version, epoch, previous and pinned (names with commas), canary, percent, shadow,
               reason, at, and as `token` those of the last changes
    versions   hash: version → `Published` as JSON; what is not in here does not exist
    deleted    hash: version that was deleted → digest of its manifest; other bytes do not get its name any more
    uploads    hash: upload → `Published` as JSON; uploads under way, and remains to be removed
    events     stream, capped: one entry for each change of `active`
    changes    channel: "VERSION EPOCH" for each change of `active`
    catalog    hash: revision of the catalog, its era (changes when Redis has lost it) and tokens of the last changes
    items      hash: item id → revision, a space, `ItemRecord` as MessagePack
    changed    sorted set: item id by the revision of its last change
    catalog_changes    channel: the revision of each change of the catalog
    replicas   hash: replica → Unix time, a space, `ReplicaReport` as MessagePack
    """

    namespace: str

    @property
    def active(self) -> str:
        return self._key("active")

    @property
    def versions(self) -> str:
        return self._key("versions")

    @property
    def deleted(self) -> str:
        return self._key("deleted")

    @property
    def uploads(self) -> str:
        return self._key("uploads")

    @property
    def events(self) -> str:
        return self._key("events")

    @property
    def changes(self) -> str:
        return self._key("changes")

    @property
    def catalog(self) -> str:
        return self._key("catalog")

    @property
    def items(self) -> str:
        return self._key("catalog:items")

    @property
    def changed(self) -> str:
        return self._key("catalog:changed")

    @property
    def catalog_changes(self) -> str:
        return self._key("catalog:changes")

    @property
    def replicas(self) -> str:
        return self._key("replicas")

    def staged(self, token: str, key: str) -> str:
        """What is to become `key` in one step; expires where it never does."""
        return self._key(f"restore:{token}:{key.rpartition(':')[2]}")

    def codes(self, version: str) -> str:
        """Hash: added item → its code in this version, tokens with points."""
        return self._key(f"v:{version}:codes")

    def coded(self, version: str) -> str:
        """Hash: code → the added item that has it in this version."""
        return self._key(f"v:{version}:coded")

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
