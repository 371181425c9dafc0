import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact import GOLDEN, Artifact, ArtifactWriter, check_model_version
from models.config import ModelConfig
from models.errors import ArtifactCorruptError, ArtifactError, ArtifactSchemaError
from models.item_ids import ItemIds
from models.prefix_output import PrefixOutput
from tests.synced import synced_before_renamed
from tests.tiny import random_codes

ROOT = Path(__file__).parents[2]
FIELDS: dict[str, Any] = {
    "config": ModelConfig(code_length=2, tokens_per_level=8, width=8, heads=1),
    "item_count": 10,
    "beam_widths": (4,),
    "default_beam_width": 4,
    "history_buckets": (50,),
    "rescore_weight": 1.0,
    "dataset": "none",
    "training_fingerprint": "",
    "metrics": {},
    "tools": {},
}


def write(folder: Path, **fields: Any) -> Artifact:
    with ArtifactWriter(folder / "v1") as writer:
        ids = ItemIds.build([f"i{number}" for number in range(10)])
        writer.catalog(random_codes(10, 2, 8, seed=0), ids, [{"title": f"ü {n}"} for n in range(10)])
        return writer.commit(**FIELDS | fields)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path)
    artifact = Artifact.open(tmp_path / "v1")
    assert artifact.manifest.model_version == "v1"
    artifact.trie.check()
    assert artifact.codes.tokens.tolist() == random_codes(10, 2, 8, seed=0).tokens.tolist()
    assert artifact.item_ids.indices(["i7"]).tolist() == [7]
    assert json.loads(artifact.metadata_json(3)) == {"title": "ü 3"}


def test_every_file_is_on_the_disk_before_the_artifact_gets_its_name(tmp_path: Path) -> None:
    synced = synced_before_renamed(lambda: write(tmp_path))
    assert synced == {".v1.writing", *(path.name for path in (tmp_path / "v1").iterdir())}


def test_a_manifest_is_utf_8_wherever_it_is_written(tmp_path: Path) -> None:
    code = "from tests.models.test_artifact import *; import sys; write(Path(sys.argv[1]), dataset='B\\u00fccher')"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": "."}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT, env=plain)
    assert Artifact.open(tmp_path / "v1").manifest.dataset == "Bücher"


def test_arrays_cannot_be_written_to(tmp_path: Path) -> None:
    codes = write(tmp_path).codes.tokens
    with pytest.raises(ValueError, match="read-only"):
        codes[0, 0] = 1


@pytest.mark.parametrize("place", [0, 128, -1])
def test_a_flipped_byte_is_found(tmp_path: Path, place: int) -> None:
    path = write(tmp_path).folder / "codes.npy"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactCorruptError, match=r"codes.npy differs from its checksum"):
        Artifact.open(tmp_path / "v1")


def test_a_missing_and_a_short_file_are_found(tmp_path: Path) -> None:
    path = write(tmp_path).folder / "id_text.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactCorruptError, match="bytes, its manifest says"):
        Artifact.open(tmp_path / "v1")
    path.unlink()
    with pytest.raises(ArtifactCorruptError, match="is missing"):
        Artifact.open(tmp_path / "v1")


def test_another_schema_is_refused_before_anything_else(tmp_path: Path) -> None:
    manifest = write(tmp_path).folder / "manifest.json"
    manifest.write_text(json.dumps({"schema_version": 99, "unknown": True}))
    with pytest.raises(ArtifactSchemaError, match="schema version 99, this program reads 3"):
        Artifact.open(tmp_path / "v1")


def test_a_folder_without_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        Artifact.open(tmp_path)


def test_a_manifest_with_a_wrong_field_names_it(tmp_path: Path) -> None:
    path = write(tmp_path).folder / "manifest.json"
    fields = json.loads(path.read_text())
    fields["item_count"] = "many"
    path.write_text(json.dumps(fields))
    with pytest.raises(ArtifactCorruptError, match="item_count"):
        Artifact.open(tmp_path / "v1")


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ArtifactWriter(tmp_path / "v1") as writer:
            writer.array("codes", np.zeros(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ArtifactError, match="already exists"):
        ArtifactWriter(tmp_path / "v1")


def test_what_came_to_be_in_its_place_meanwhile_stays(tmp_path: Path) -> None:
    def written_twice() -> None:
        with ArtifactWriter(tmp_path / "v1") as writer:
            (tmp_path / "v1").mkdir()
            (tmp_path / "v1" / "theirs").touch()
            writer.commit(**FIELDS)

    with pytest.raises(ArtifactError, match="v1 cannot be written: Directory not empty"):
        written_twice()
    assert list(tmp_path.rglob("*")) == [tmp_path / "v1", tmp_path / "v1" / "theirs"]


@pytest.mark.parametrize("version", ["", ".hidden", "a/b", "ü", "x" * 65, "a\n"])
def test_an_odd_version_name_is_refused(version: str) -> None:
    with pytest.raises(ArtifactError, match="must be 1–64"):
        check_model_version(version)


def write_servable(folder: Path) -> Artifact:
    artifact = write(folder)
    for name in ("item_input", "item_output"):
        np.save(artifact.folder / f"{name}.npy", np.zeros((10, 8), dtype=np.float32))
    np.save(artifact.folder / "popularity.npy", np.arange(10, dtype=np.int32)[::-1])
    for name, values in PrefixOutput.of_first_items(artifact.trie, 8).inputs().items():
        np.save(artifact.folder / f"{name}.npy", values)
    return artifact


def test_arrays_that_belong_together_pass(tmp_path: Path) -> None:
    write_servable(tmp_path).check()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "zeros", "pickled"])
def test_an_array_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    path = write_servable(tmp_path).folder / "leaf_item.npy"
    data = path.read_bytes()
    path.unlink()
    if damage == "pickled":
        np.save(path, np.array([{}] * 10), allow_pickle=True)
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": data[:-1], "zeros": bytes(len(data))}[damage])
    with pytest.raises(ArtifactCorruptError, match=r"leaf_item\.npy cannot be read"):
        Artifact.open(tmp_path / "v1", verify=False).check()


@pytest.mark.parametrize("content", [None, "", '[{"history"'])
def test_golden_requests_that_cannot_be_read_are_named(tmp_path: Path, content: str | None) -> None:
    artifact = write(tmp_path)
    if content is not None:
        (artifact.folder / GOLDEN).write_text(content)
    with pytest.raises(ArtifactCorruptError, match=r"golden\.json cannot be read"):
        artifact.golden()


@pytest.mark.parametrize(
    ("name", "values", "fault"),
    [
        ("popularity", np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8], dtype=np.int32), "popularity does not name every item"),
        ("popularity", np.arange(9, dtype=np.int32), "popularity does not name every item"),
        ("item_output", np.zeros((9, 8), dtype=np.float32), "item_output is not an array"),
        ("item_input", np.zeros((10, 4), dtype=np.float32), "item_input is not an array"),
        ("codes", np.zeros((10, 3), dtype=np.int32), "codes is not an array"),
        ("prefix_output", np.zeros((1, 4), dtype=np.float32), "prefix_output is not an array"),
        ("metadata_bounds", np.zeros(11, dtype=np.int64), "there are no metadata of 10 items"),
        ("id_bounds", np.arange(10, dtype=np.int64), "there are no ids of 10 items"),
        ("id_item", np.arange(9, dtype=np.int32), "ids cannot be looked up"),
        ("attribute_numbers", np.zeros((1, 10)), "the attributes are not those of 10 items"),
    ],
)
def test_arrays_that_do_not_belong_together_are_found(
    tmp_path: Path, name: str, values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", fault: str
) -> None:
    artifact = write_servable(tmp_path)
    np.save(artifact.folder / f"{name}.npy", values)
    with pytest.raises(ArtifactCorruptError, match=fault):
        artifact.check()
