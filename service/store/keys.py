"""Names of everything in Redis. The namespace is every key's hash tag, so a Cluster keeps a namespace on one node."""


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

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.active = self._key("active")
        self.versions = self._key("versions")
        self.deleted = self._key("deleted")
        self.uploads = self._key("uploads")
        self.events = self._key("events")
        self.changes = self._key("changes")
        self.catalog = self._key("catalog")
        self.items = self._key("catalog:items")
        self.changed = self._key("catalog:changed")
        self.catalog_changes = self._key("catalog:changes")
        self.replicas = self._key("replicas")

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
