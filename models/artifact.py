"""The artifact: a directory that holds everything serving needs of one trained model.

Files are `.npy` arrays, ONNX graphs that share their weights, and JSON; never pickles. `manifest.json` names every
file with its size and SHA-256. An artifact is written aside and renamed once it is on the disk, so a directory with a
manifest is whole.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .attributes import Attributes
from .codes import CodeTable
from .config import ModelConfig
from .errors import ArtifactCorruptError, ArtifactError, ArtifactSchemaError
from .item_ids import ItemIds
from .prefix_output import PrefixOutput
from .trie import CodeTrie
from .whole_files import put_whole

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
WEIGHTS = "search.weights"
CPU_WEIGHTS = "search_cpu.weights"
GOLDEN = "golden.json"
ITEM_ENCODER = "item_encoder.onnx"
TEXT_ENCODER = "text_encoder.onnx"
TOKENIZER = "tokenizer.json"
_VERSION_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an artifact is, as its `manifest.json` says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    model_version: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    config: ModelConfig
    item_count: int
    beam_widths: tuple[int, ...] = Field(description="ascending; a graph each, and where it differs one for CPUs")
    default_beam_width: int
    history_buckets: tuple[int, ...] = Field(
        description="ascending lengths T a batch is padded to; last = history_length"
    )
    rescore_weight: float = Field(description="weight of the item score beside the code's log-probability")
    item_encoder: bool = Field(
        False, description="whether items can be added: item_encoder.onnx and its arrays are there"
    )
    semantic_width: int = Field(
        0, description="D_S, width of the text embeddings the item encoder takes; 0 without one"
    )
    text_encoder: str | None = Field(
        None, description="which encoder the embeddings come from; None: not in the artifact, embeddings must be given"
    )
    dataset: str = Field(description="name of the data it was trained on")
    training_fingerprint: str = Field(description="SHA-256 over the training events")
    metrics: dict[str, dict[str, float]] = Field(
        description="method → metric → value, through this artifact's graph or, of a refit, that of `refitted_from`"
    )
    metrics_of: str | None = Field(None, description="what they were measured on; None: the test set, all users")
    refitted_from: str | None = Field(
        None, description="version whose recipe was trained anew on all events; None: events were held out"
    )
    tools: dict[str, str] = Field(description="library → version that wrote it")
    files: dict[str, FileEntry]


def graph_file(beam_width: int, *, cpu: bool = False) -> str:
    """File name of the graph that keeps `beam_width` beams, or of the one that does so on a CPU."""
    return f"search_b{beam_width}_cpu.onnx" if cpu else f"search_b{beam_width}.onnx"


def check_model_version(version: str) -> str:
    """Returns `version`, or raises ArtifactError: letters, digits, '.', '_' and '-', at most 64."""
    if not _VERSION_PATTERN.fullmatch(version):
        raise ArtifactError(
            f"model version {version!r} must be 1–64 letters, digits, '.', '_' or '-', and start with a letter or digit"
        )
    return version


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk. Arrays are memory-mapped, read-only, and so shared by all processes that open them."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> "Artifact":
        """Reads the manifest and, with `verify`, every file's checksum.

        Raises ArtifactError where there is none, ArtifactSchemaError for another schema, ArtifactCorruptError for a
        file that is missing or differs.
        """
        artifact = cls(folder, read_manifest(folder))
        if verify:
            for name, entry in artifact.manifest.files.items():
                _check_file(folder / name, entry)
        return artifact

    def array(self, name: str) -> NDArray[Any]:
        """The array saved as `name`.npy, memory-mapped; raises ArtifactCorruptError where it cannot be read."""
        path = self.folder / f"{name}.npy"
        with _readable(path):
            mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return np.asarray(mapped)

    @cached_property
    def codes(self) -> CodeTable:
        return CodeTable(self.array("codes"), self.manifest.config.tokens_per_level)

    @cached_property
    def trie(self) -> CodeTrie:
        levels = range(self.manifest.config.code_length)
        return CodeTrie(
            tuple(self.array(f"child_start_{level}") for level in levels),
            tuple(self.array(f"child_token_{level}") for level in levels),
            self.array("leaf_item"),
            self.manifest.config.tokens_per_level,
        )

    @cached_property
    def prefix_output(self) -> PrefixOutput:
        levels = range(self.manifest.config.code_length - 1)
        return PrefixOutput(self.array("prefix_output"), tuple(self.array(f"prefix_row_{level}") for level in levels))

    @cached_property
    def item_ids(self) -> ItemIds:
        return ItemIds(*(self.array(name) for name in ("id_text", "id_bounds", "id_hash", "id_item")))

    @cached_property
    def attributes(self) -> Attributes:
        return Attributes.open(self)

    def metadata_json(self, item_index: int) -> bytes:
        """The item's metadata as one JSON object, UTF-8."""
        start, end = self._metadata[1][item_index : item_index + 2]
        return self._metadata[0][start:end].tobytes()

    @cached_property
    def _metadata(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return self.array("metadata_text"), self.array("metadata_bounds")

    def check(self) -> None:
        """Raises TrieError or ArtifactCorruptError unless what serving reads of each item is there for all N of them.

        Checksums say that files are as they were written, this that they belong together. Cost O(N).
        """
        self.trie.check()
        items, config = self.manifest.item_count, self.manifest.config
        tables = ("item_output", "item_input") if config.generator == "temporal" else ("item_output",)
        for name, shape in {
            "codes": (items, config.code_length),
            **dict.fromkeys(tables, (items, config.width)),
        }.items():
            self._expect(self.array(name).shape == shape, f"{name} is not an array of {list(shape)}")
        vectors = self.prefix_output.vectors
        self._expect(vectors.ndim == 2 and vectors.shape[1] == config.width, "prefix_output is not an array of vectors")
        self.prefix_output.check(self.trie)
        popularity = self.array("popularity")
        self._expect(self.trie.item_count == items, f"the trie has {self.trie.item_count} items and not {items}")
        self._expect(np.array_equal(np.sort(popularity), np.arange(items)), "popularity does not name every item once")
        for name, text, bounds in (
            ("ids", self.item_ids.text, self.item_ids.bounds),
            ("metadata", *self._metadata),
        ):
            whole = bounds.size == items + 1 and bounds[0] == 0 and bounds[-1] == text.size
            self._expect(whole and bool((np.diff(bounds) >= 0).all()), f"there are no {name} of {items} items")
        self._expect(len(self.item_ids) == items, f"ids cannot be looked up of {items} items")
        self.attributes.check()

    def _expect(self, fulfilled: bool, otherwise: str) -> None:
        if not fulfilled:
            raise ArtifactCorruptError(f"model {self.manifest.model_version}: {otherwise}")

    def graph_path(self, beam_width: int) -> Path:
        """The search whose every tensor has a size known beforehand, as a captured CUDA graph needs it."""
        return self.folder / graph_file(beam_width)

    def cpu_graph_path(self, beam_width: int) -> Path:
        """The same search for a CPU, which skips what is decided; where it has no graph of its own, `graph_path`."""
        name = graph_file(beam_width, cpu=True)
        return self.folder / name if name in self.manifest.files else self.graph_path(beam_width)

    def golden(self) -> list[dict[str, Any]]:
        """Histories with the answers they must give: {history: [item_id], items: [item_id], scores: [float]}.

        Raises ArtifactCorruptError where they cannot be read.
        """
        path = self.folder / GOLDEN
        with _readable(path):
            loaded: list[dict[str, Any]] = json.loads(path.read_text())
            return loaded


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, without checksums; errors as in `Artifact.open`."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}") from None
    except ValueError as error:
        raise ArtifactCorruptError(f"{path} is not JSON: {error}") from None
    return parse_manifest(raw, str(path))


def parse_manifest(raw: Any, source: str) -> Manifest:
    """Validates a decoded manifest; `source` names it in errors."""
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != SCHEMA_VERSION:
        raise ArtifactSchemaError(
            f"{source} has schema version {found}, this program reads {SCHEMA_VERSION}: export it again"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactCorruptError(f"{source}: {place}: {first['msg']}") from None


class ArtifactWriter:
    """Writes an artifact into a temporary directory beside its place and renames it on `commit`.

    As a context manager it removes what was not committed.
    """

    def __init__(self, target: Path) -> None:
        if target.exists():
            raise ArtifactError(f"{target} already exists")
        check_model_version(target.name)
        self.target = target
        self.folder = target.with_name(f".{target.name}.writing")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def array(self, name: str, values: NDArray[Any]) -> None:
        np.save(self.folder / f"{name}.npy", np.ascontiguousarray(values), allow_pickle=False)

    def catalog(self, codes: CodeTable, ids: ItemIds, metadata: list[dict[str, Any]]) -> None:
        """Codes, their trie, the ids, the metadata of all items and the attributes in it."""
        self.items(codes, ids)
        rows = [json.dumps(row, ensure_ascii=False, allow_nan=False).encode() for row in metadata]
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        self.array("metadata_text", np.frombuffer(b"".join(rows), dtype=np.uint8))
        self.array("metadata_bounds", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        Attributes.build(metadata).write(self)

    def items(self, codes: CodeTable, ids: ItemIds) -> None:
        """Codes, their trie and the ids."""
        trie = CodeTrie.build(codes)
        self.array("codes", codes.tokens)
        self.array("leaf_item", trie.leaf_item)
        for level in range(trie.code_length):
            self.array(f"child_start_{level}", trie.child_start[level])
            self.array(f"child_token_{level}", trie.child_token[level])
        self.array("id_text", ids.text)
        self.array("id_bounds", ids.bounds)
        self.array("id_hash", ids.sorted_hash)
        self.array("id_item", ids.hash_item)

    def prefix_output(self, prefixes: PrefixOutput) -> None:
        for name, values in prefixes.inputs().items():
            self.array(name, values)

    def golden(self, rows: list[dict[str, Any]]) -> None:
        (self.folder / GOLDEN).write_text(json.dumps(rows))

    def commit(self, **fields: Any) -> Artifact:
        """Checksums every file, writes the manifest with `fields`, renames the directory into place.

        Raises ArtifactError where something has come to be there meanwhile; it is left as it is.
        """
        files = {path.name: file_entry(path) for path in _files(self.folder)}
        manifest = Manifest(model_version=self.target.name, files=files, **fields)
        # What is None is left out, so that a program that does not know a newer field reads what does not use it.
        text = manifest.model_dump_json(indent=2, exclude_none=True) + "\n"
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        try:
            put_whole(self.folder, self.target)
        except OSError as error:
            raise ArtifactError(f"{self.target} cannot be written: {error.strerror}") from None
        return Artifact.open(self.target, verify=False)


def file_entry(path: Path) -> FileEntry:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(bytes=path.stat().st_size, sha256=digest)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Names the file where what is read of it is damaged: checksums are not looked at again at every start."""
    try:
        yield
    except (OSError, EOFError, ValueError) as error:
        raise ArtifactCorruptError(f"{path} cannot be read: {error}") from None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.name != MANIFEST)


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise ArtifactCorruptError(f"{path} is missing")
    found = file_entry(path)
    if found.bytes != entry.bytes:
        raise ArtifactCorruptError(f"{path} has {found.bytes} bytes, its manifest says {entry.bytes}")
    if found.sha256 != entry.sha256:
        raise ArtifactCorruptError(f"{path} differs from its checksum")
