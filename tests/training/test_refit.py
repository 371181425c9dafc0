"""A refit learns from all events, for as long as validation chose in the run, and is measured by nobody."""

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from models.artifact import Artifact
from models.graph import catalog_inputs
from training.__main__ import app
from training.batches import Batch
from training.checkpoint import read_progress
from training.config import load_config
from training.errors import ConfigError
from training.evaluate import evaluate_artifact
from training.export import GraphSearch
from training.generator import GeneratorTask
from training.interactions import leave_one_out, read_dataset
from training.package import search_rows
from training.pipeline import Run
from training.refit import refit_run

from .ring import ITEMS, ring_settings, write_ring, write_text_embeddings

NEWEST = ITEMS - 1
"""Index of the item that only last events have."""

CHANGES = ["stage1.learning_rate=2e-2", "stage1.patience=1", "stage1.evaluate_every=1", "stage2.evaluate_every=1"]
DECODER = ["decoder.epochs=3", "decoder.batch_size=16"]


def write_newest_last(folder: Path) -> Path:
    """The ring, but its last item is there only as the last event of every third user."""
    data = write_ring(folder)
    path = data / "interactions.csv"
    with path.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    for row, following in zip(rows, [*rows[1:], ["", "", ""]], strict=True):
        is_last = following[0] != row[0]
        if is_last and int(row[0][1:]) % 3 == 0:
            row[1] = f"i{NEWEST}"
        elif row[1] == f"i{NEWEST}":
            row[1] = "i0"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return data


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, and the artifacts of finished runs: `plain`, and `decoder` with that stage."""
    folder = tmp_path_factory.mktemp("shop")
    data, text = write_newest_last(folder / "data"), write_text_embeddings(folder / "text.npy")
    for name, changes in (("plain", CHANGES), ("decoder", [*CHANGES, *DECODER])):
        Run(data, folder / name, load_config("quickstart", [*ring_settings(text), *changes])).export()
    return folder


@pytest.fixture(scope="module", params=["plain", "decoder"])
def refitted(shop: Path, request: pytest.FixtureRequest) -> tuple[Artifact, Artifact]:
    """A run's artifact and that of its refit."""
    run = refit_run(shop / "data", shop / request.param, shop / f"{request.param}-full")
    return Artifact.open(shop / request.param), run.export()


def epochs_of(artifact: Artifact, counted: str) -> dict[str, int]:
    """Stage → a number of its progress."""
    work = artifact.folder.with_name(f"{artifact.folder.name}.work")
    return {path.stem: read_progress(path)[counted] for path in work.glob("*.safetensors")}


def test_last_events_are_learned(shop: Path, refitted: tuple[Artifact, Artifact]) -> None:
    before, after = refitted
    events = read_dataset(shop / "data").events
    counts = np.bincount(events, minlength=ITEMS)
    assert after.array("popularity").tolist() == np.argsort(-counts, kind="stable").tolist()
    assert newest_found(shop, before) < newest_found(shop, after)


def newest_found(shop: Path, artifact: Artifact) -> int:
    """How many of those who took the newest item last have it among the first ten that are recommended."""
    test, manifest = leave_one_out(read_dataset(shop / "data")).test, artifact.manifest
    search = GraphSearch(
        artifact.cpu_graph_path(20), catalog_inputs(artifact), manifest.config.code_length, manifest.history_buckets
    )
    histories = [test.history(row) for row in np.flatnonzero(test.target == NEWEST).tolist()]
    found = search(search_rows(artifact.trie, histories, exclude_seen=True), manifest.rescore_weight)
    return int((found.item[:, :10] == NEWEST).any(axis=1).sum())


def test_every_stage_trains_for_the_epochs_that_validation_chose(refitted: tuple[Artifact, Artifact]) -> None:
    before, after = refitted
    chosen = epochs_of(before, "best_epoch")
    assert {name: epochs for name, epochs in epochs_of(after, "epoch").items() if epochs} == {
        name: epochs for name, epochs in chosen.items() if epochs
    }
    assert chosen["stage1"] < epochs_of(before, "epoch")["stage1"]  # or stopping early would not have been tried


def test_a_refit_says_what_it_is_and_carries_the_figures_of_its_run(refitted: tuple[Artifact, Artifact]) -> None:
    before, after = (artifact.manifest for artifact in refitted)
    assert (before.refitted_from, after.refitted_from) == (None, before.model_version)
    assert after.metrics == before.metrics
    assert after.rescore_weight == before.rescore_weight
    assert after.training_fingerprint != before.training_fingerprint


def test_a_refit_is_not_measured_on_what_it_has_seen(shop: Path, refitted: tuple[Artifact, Artifact]) -> None:
    with pytest.raises(ConfigError, match=f"as a refit of {refitted[0].manifest.model_version}; measure"):
        evaluate_artifact(refitted[1], leave_one_out(read_dataset(shop / "data")))


def test_a_killed_refit_ends_with_the_same_weights(
    shop: Path, refitted: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = refitted
    out = after.folder.with_name(f"{before.folder.name}-killed")
    with monkeypatch.context() as patch:
        patch.setattr(GeneratorTask, "loss", dying_at(12, GeneratorTask.loss))
        with pytest.raises(KeyboardInterrupt):
            refit_run(shop / "data", before.folder, out).export()
    assert 0 < epochs_of(Artifact(out, before.manifest), "step")["stage2"] < 12
    refit_run(shop / "data", before.folder, out).stage2()
    unbroken, resumed = best_weights(after.folder), best_weights(out)
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


def best_weights(out: Path) -> dict[str, Tensor]:
    """What every stage of a run has kept, by its name and the tensor's."""
    checkpoints = out.with_name(f"{out.name}.work").glob("*.safetensors")
    return {
        f"{path.stem} {name}": value
        for path in checkpoints
        for name, value in load_file(path).items()
        if name.startswith("best.")
    }


def dying_at(step: int, loss: Callable[[GeneratorTask, Batch], Tensor]) -> Callable[[GeneratorTask, Batch], Tensor]:
    """A task's loss that is interrupted once it is asked for the `step`-th time."""
    asked = iter(range(1, step + 1))

    def counted(task: GeneratorTask, batch: Batch) -> Tensor:
        if next(asked) == step:
            raise KeyboardInterrupt
        return loss(task, batch)

    return counted


def test_a_refit_and_a_run_do_not_mix(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "v1"
    refit = refit_run(shop / "data", shop / "plain", out)
    refit.prepare()
    with pytest.raises(ConfigError, match=r"begun with other settings \(refit=on, now off\)"):
        Run(shop / "data", out, refit.config)
    Run(shop / "data", tmp_path / "v2", refit.config).prepare()
    with pytest.raises(ConfigError, match="begun with other settings"):
        refit_run(shop / "data", shop / "plain", tmp_path / "v2")


def test_what_cannot_be_refitted_is_refused_in_one_sentence(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("plain", "plain.work"):
        shutil.copytree(shop / name, tmp_path / name)
    source, work = tmp_path / "plain", tmp_path / "plain.work"

    def refused(
        match: str, data: Path = shop / "data", out: Path = tmp_path / "full", source: Path = tmp_path / "plain"
    ) -> None:
        with pytest.raises(ConfigError, match=match):
            refit_run(data, source, out)

    refused("is the artifact to be refitted", out=source)
    refused("is not what .* was trained on", data=write_ring(tmp_path / "other", seed=5))
    source.rename(tmp_path / "aside")
    refused("is not finished")
    with caplog.at_level(logging.INFO):
        refused("nowhere is not a folder", source=tmp_path / "nowhere")
    assert caplog.messages == []
    (tmp_path / "aside").rename(source)
    (work / "stage2.safetensors").rename(tmp_path / "stage2.safetensors")
    refused(r"stage2\.safetensors is gone")
    shutil.rmtree(work)
    refused("work is gone")
    assert not (tmp_path / "full.work").exists()


def test_a_run_whose_checkpoint_has_not_ended_is_not_refitted(shop: Path, tmp_path: Path) -> None:
    """An artifact whose working folder was removed and begun anew."""
    shutil.copytree(shop / "plain", tmp_path / "plain")
    config = json.loads((shop / "plain.work" / "config.json").read_text())
    begun = Run(shop / "data", tmp_path / "plain", load_config("quickstart", []).model_validate(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneratorTask, "loss", dying_at(12, GeneratorTask.loss))
        with pytest.raises(KeyboardInterrupt):
            begun.stage2()
    del begun
    with pytest.raises(ConfigError, match=r"stage2\.safetensors is of a training that has not ended"):
        refit_run(shop / "data", tmp_path / "plain", tmp_path / "full")


def test_the_command_line_refits_once_and_tells_whose_figures_it_prints(
    shop: Path, refitted: tuple[Artifact, Artifact]
) -> None:
    before, after = refitted
    arguments = ["refit", "--data", str(shop / "data"), "--from", str(before.folder), "--out", str(after.folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "nothing to train" in result.output
    assert f"of {before.manifest.model_version}, before the refit" in result.output


def test_a_refit_may_be_trained_elsewhere_and_otherwise_only_as_its_run(shop: Path, tmp_path: Path) -> None:
    run = refit_run(shop / "data", shop / "plain", tmp_path / "new", ["checkpoint_every_s=7", "skip_wrong_rows=2"])
    assert (run.config.checkpoint_every_s, run.config.skip_wrong_rows) == (7, 2)
    for name in ("stage1.epochs", "measured_users"):  # a refit is measured on nobody
        with pytest.raises(ConfigError, match=f"^{name} is as in the run"):
            refit_run(shop / "data", shop / "plain", tmp_path / "new", [f"{name}=3"])


def test_a_refit_is_not_refitted(shop: Path, refitted: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"is a refit itself; refit {refitted[0].manifest.model_version}"):
        refit_run(shop / "data", refitted[1].folder, tmp_path / "again")
