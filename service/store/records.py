"""What the store writes down about a version, and what it tells about it."""

import json
import math
import re
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.artifact import MANIFEST, Manifest, check_model_version, parse_manifest
from models.errors import ArtifactError, ArtifactSchemaError

from ..errors import BadArtifact, StoreCorrupt, UnknownVersion

CHUNK_BYTES: Final = 4 * 1024 * 1024  # Redis serves one command at a time: a chunk holds the others up for ~1 ms
_FILE_PATTERN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class VersionInfo(BaseModel):
    """A published version at a glance."""

    model_config = ConfigDict(frozen=True)

    version: str
    created_at: datetime
    published_at: datetime
    bytes: int
    item_count: int
    metrics: dict[str, dict[str, float]]
    metrics_of: str | None = None
    refitted_from: str | None = None


class Published(VersionInfo):
    """What a list of versions shows of one upload, and where its chunks lie."""

    digest: str = Field(description="SHA-256 of the bytes of manifest.json")
    upload: str = Field(description="part of the chunks' keys, new for every upload")
    chunk_counts: dict[str, int]


class Record(BaseModel):
    """Everything needed to fetch one version and to check every byte of it."""

    model_config = ConfigDict(frozen=True)

    version: str
    upload: str
    manifest_text: str
    chunk_bytes: int = Field(gt=0)
    chunk_sha256: dict[str, tuple[str, ...]]

    @property
    def digest(self) -> str:
        return manifest_digest(self.manifest_text.encode())

    @cached_property
    def manifest(self) -> Manifest:
        return parse_manifest_text(self.manifest_text, f"published version {self.version}")


def megabytes(size_bytes: int) -> str:
    """As a person reads it, decimal."""
    return f"{size_bytes / 1e6:.1f} MB"


def manifest_digest(manifest_json: bytes) -> str:
    return sha256(manifest_json).hexdigest()


def read_record(raw: bytes, version: str) -> Record:
    """Raises StoreCorrupt where it contradicts itself, BadArtifact for a manifest of another schema."""
    try:
        record = Record.model_validate_json(raw)
        manifest = record.manifest
    except (ValidationError, StoreCorrupt):
        raise StoreCorrupt(f"the record of version {version} in Redis is damaged") from None
    expected = chunk_counts(manifest, record.chunk_bytes)
    found = {name: len(digests) for name, digests in record.chunk_sha256.items()}
    if record.version != version or manifest.model_version != version or expected != found:
        raise StoreCorrupt(f"the record of version {version} in Redis contradicts its manifest")
    check_names(manifest)
    return record


def read_published(raw: bytes) -> Published:
    try:
        return Published.model_validate_json(raw)
    except ValidationError:
        raise StoreCorrupt("the list of versions in Redis is damaged") from None


def begin(manifest: Manifest, digest: str) -> Published:
    """A new upload of a manifest's files."""
    return Published(
        version=manifest.model_version,
        digest=digest,
        upload=uuid4().hex,
        chunk_counts=chunk_counts(manifest, CHUNK_BYTES),
        created_at=manifest.created_at,
        published_at=datetime.now(UTC),
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        item_count=manifest.item_count,
        metrics=manifest.metrics,
        metrics_of=manifest.metrics_of,
        refitted_from=manifest.refitted_from,
    )


def chunk_counts(manifest: Manifest, chunk_bytes: int) -> dict[str, int]:
    return {name: math.ceil(entry.bytes / chunk_bytes) for name, entry in manifest.files.items()}


def check_names(manifest: Manifest) -> None:
    """Raises BadArtifact for a version or file name that could mean something else as a key or as a path."""
    try:
        check_model_version(manifest.model_version)
    except ArtifactError as error:
        raise BadArtifact(str(error)) from None
    for name in manifest.files:
        if not _FILE_PATTERN.fullmatch(name) or name == MANIFEST:
            raise BadArtifact(
                f"version {manifest.model_version} has a file with the name {name!r}, which is not allowed"
            )


def check_known(version: str) -> None:
    """Raises UnknownVersion for a name no version can have, before it becomes part of a key or a path."""
    try:
        check_model_version(version)
    except ArtifactError as error:
        raise UnknownVersion(f"no such version can exist: {error}") from None


def read_manifest_text(folder: Path) -> str:
    """The bytes of `folder`/manifest.json, as text. Raises BadArtifact."""
    try:
        return (folder / MANIFEST).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{folder / MANIFEST} cannot be read: {error}") from None


def parse_manifest_text(text: str, source: str) -> Manifest:
    """Raises StoreCorrupt, or BadArtifact for another schema version."""
    try:
        return parse_manifest(json.loads(text), source)
    except ArtifactSchemaError as error:
        raise BadArtifact(str(error)) from None
    except (ArtifactError, ValueError) as error:
        raise StoreCorrupt(f"{source}: {error}") from None
