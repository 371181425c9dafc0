"""The whole of training on a dataset with a rule to learn."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models.artifact import Artifact
from models.item_encoder import ItemEncoder
from training.__main__ import app
from training.config import TrainingConfig, load_config
from training.errors import ConfigError, TrainingError
from training.evaluate import evaluate_artifact, rank_by_popularity
from training.finish import Finish, dataset_name, history_buckets
from training.generator import GeneratorModel, eager_search
from training.interactions import leave_one_out, read_dataset
from training.metrics import ranks_of_targets, recall_at
from training.pipeline import Run
from training.ranking import sampled

from .ring import ITEMS, ring_settings, write_ring


def config_for(ring: Path, *changes: str) -> TrainingConfig:
    return load_config("quickstart", [*ring_settings(ring / "text.npy"), *changes])


@pytest.fixture(scope="module")
def trained(ring: Path) -> tuple[Run, Artifact]:
    run = Run(ring / "data", ring / "temporal-1", config_for(ring))
    return run, run.export()


def test_the_rule_is_learned_and_measured_through_the_graph(trained: tuple[Run, Artifact]) -> None:
    metrics = trained[1].manifest.metrics
    assert metrics["PRORec, codes alone"]["recall@10"] > 0.9
    assert metrics["PRORec, guided"]["ndcg@10"] > 0.7
    assert metrics["popularity"]["recall@10"] < 0.5


def test_the_artifact_is_whole_and_its_codes_are_unique(trained: tuple[Run, Artifact]) -> None:
    artifact = Artifact.open(trained[1].folder)
    artifact.trie.check()
    assert artifact.manifest.item_count == ITEMS
    assert artifact.manifest.history_buckets == (8, 12)
    assert len(artifact.golden()) == 16


def test_a_second_evaluation_gives_the_same_numbers(trained: tuple[Run, Artifact]) -> None:
    again = evaluate_artifact(trained[1], trained[0].split)
    for method, values in again.items():
        assert values == pytest.approx(trained[1].manifest.metrics[method])


@pytest.fixture(scope="module")
def of_one_item(ring: Path) -> tuple[Artifact, str]:
    """Reads histories of one item and is measured on a sample of the validation set, and what the command said."""
    changes = ("model.history_length=1", "stage1.epochs=2", "stage2.epochs=2")
    Run(ring / "data", ring / "tuning-1", config_for(ring, *changes)).stage2()
    arguments = ["run", "--data", str(ring / "data"), "--preset", "quickstart", "--out", str(ring / "tuning-1")]
    # On whom it is measured is no part of the recipe.
    settings = [*ring_settings(ring / "text.npy"), *changes, "measured_users=30"]
    result = CliRunner().invoke(
        app, [*arguments, *(part for each in settings for part in ("--set", each)), "--no-test"]
    )
    return Artifact.open(ring / "tuning-1"), result.output


def test_on_whom_an_artifact_is_measured_is_chosen_and_said(
    of_one_item: tuple[Artifact, str], trained: tuple[Run, Artifact]
) -> None:
    said = "validation set, a fixed sample of 30 of its 120 users"
    assert f"data: {said}, through the exported graph" in of_one_item[1]
    manifest, split = of_one_item[0].manifest, trained[0].split
    assert manifest.metrics_of == said
    assert trained[1].manifest.metrics_of is None
    sample, counts = sampled(split.valid, 30), split.train.counts(ITEMS)
    for name, values in rank_by_popularity(sample, counts).metrics("popularity").items():
        assert manifest.metrics[name] == values
        assert trained[1].manifest.metrics[name] != values
    for values in manifest.metrics.values():
        assert values["recall@10"] * 30 == pytest.approx(round(values["recall@10"] * 30))


def test_a_sample_of_the_test_set_is_measured_again_and_said(ring: Path, trained: tuple[Run, Artifact]) -> None:
    arguments = ["evaluate", str(trained[1].folder), "--data", str(ring / "data"), "--users", "30"]
    result = CliRunner().invoke(app, arguments)
    assert "temporal-1 on data: test set, a fixed sample of 30 of its 120 users" in result.output
    split = trained[0].split
    wanted = rank_by_popularity(sampled(split.test, 30), split.train.counts(ITEMS)).metrics("popularity")
    found = evaluate_artifact(trained[1], split, 30)
    assert {name: found[name] for name in wanted} == wanted


def test_the_artifact_takes_new_items_by_their_embeddings(ring: Path, trained: tuple[Run, Artifact]) -> None:
    artifact = trained[1]
    assert (artifact.manifest.semantic_width, artifact.manifest.text_encoder) == (8, None)
    encoder = ItemEncoder.open(artifact)
    encoded = encoder.encode(np.load(ring / "text.npy"))
    # An item like item 7 scores like item 7: the ring's embeddings tell everything.
    scores = encoded.item_output @ artifact.array("item_output").T
    assert np.mean(np.abs((scores.argmax(axis=1) - np.arange(ITEMS) + 20) % ITEMS - 20) <= 1) > 0.9
    codes = encoder.propose(encoded.integrated, lambda asked: np.zeros(len(asked), dtype=bool))
    assert len(np.unique(codes, axis=0)) == ITEMS
    # And it weighs as much in a history.
    learned, told = artifact.array("item_input"), encoder.item_input(encoded, artifact.codes.tokens)
    assert 0.5 < np.linalg.norm(told, axis=1).mean() / np.linalg.norm(learned, axis=1).mean() < 2


def test_held_out_events_do_not_reach_the_codes(ring: Path, trained: tuple[Run, Artifact]) -> None:
    data = write_ring(ring / "changed", change_held_out=True)
    assert not np.array_equal(read_dataset(data).events, trained[0].split.interactions.events)
    # Validation decides when to stop; without stopping early, nothing held out has a say.
    fixed = ("stage1.epochs=3", "stage1.evaluate_every=3", "stage1.patience=99")
    before = Run(ring / "data", ring / "fixed-1", config_for(ring, *fixed)).codes()
    after = Run(data, ring / "fixed-2", config_for(ring, *fixed)).codes()
    assert np.array_equal(before.tokens, after.tokens)


def test_stage_two_starts_where_stage_one_ended(trained: tuple[Run, Artifact]) -> None:
    run = trained[0]
    stage1, task = run.stage1()
    model = GeneratorModel(run.config, run.embeddings(), run.codes())
    model.start_from(stage1, run.codes())
    model.eval()
    history = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        context = model.generator.encode(history, {"item_input": model.item_input(torch.arange(ITEMS))})
        by_item = context.user_state @ model.item.T
        np.testing.assert_allclose(by_item, task.model.scores(history, task.model.items()), atol=1e-4)
        logits, _ = model.generator.teacher_forced(context.repeat(ITEMS), model.codes)
        by_code = torch.stack([part.gather(1, model.codes[:, n : n + 1]) for n, part in enumerate(logits)]).sum(dim=0)
        parts = model.generator.token_output
        approximate = torch.stack([parts[n][model.codes[:, n]] for n in range(parts.shape[0])]).sum(dim=0)
    np.testing.assert_allclose(by_code[:, 0], approximate @ context.user_state[0], atol=1e-4)
    assert float(torch.corrcoef(torch.stack([by_item[0], by_code[:, 0]]))[0, 1]) > 0.7


VARIANTS = {
    "encoder-decoder": ("model.generator=encoder_decoder", "stage2.epochs=20", "stage2.learning_rate=3e-3"),
    "din": ("recommender=din", "stage2.epochs=12"),
    "gate-balanced-ranking": ("integrated=gate", "quantizer=balanced", "ranking_weight=0.5"),
    "no-alignment-no-distillation": ("integrated=collaborative", "cka_weight=0", "ikd_weight=0"),
    "naive": ("integrated=naive", "cka_weight=0"),
    "rqvae-from-scratch": (
        "quantizer=rqvae",
        "start_from_stage1=false",
        "stage2.epochs=20",
        "stage2.learning_rate=3e-3",
    ),
    "text-alone-averaged": (
        "integrated=semantic",
        "stage1.averaging=ema",
        "stage1.ema_decay=0.9",
        "stage2.averaging=swa",
        "stage2.average_from=0.5",
    ),
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_learns_the_rule(ring: Path, changes: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    assert recall_of(Run(ring / "data", ring / request.node.callspec.id, config_for(ring, *changes)), 10) > 0.7


def recall_of(run: Run, k: int) -> float:
    """On the test set, guided, as its artifact would have it."""
    finish, test = Finish(run), run.split.test
    found = eager_search(finish.model, finish.task.trie, test, run.config, finish.tables, finish.weight)
    return recall_at(ranks_of_targets(found.items, test.target), k)


@pytest.mark.parametrize("name", ["encoder-decoder", "gate-balanced-ranking"])
def test_variants_with_graphs_of_their_own_are_exported(ring: Path, name: str) -> None:
    """Of the trainings above: the other generator, and vectors that only the text's encoder knows how to mix."""
    artifact = Run(ring / "data", ring / name, config_for(ring, *VARIANTS[name])).export()
    assert artifact.manifest.metrics["PRORec, guided"]["recall@10"] > 0.7


def test_it_says_at_once_what_it_has_read(ring: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = Run(ring / "data", tmp_path / "v1", config_for(ring)).split.interactions
    counts = f"{len(data.user_ids)} users, {len(data.item_ids)} items, {len(data.events)} events"
    assert caplog.messages == [f"data: {counts}"]


def test_other_settings_do_not_mix_with_a_begun_run(ring: Path, trained: tuple[Run, Artifact]) -> None:
    with pytest.raises(ConfigError, match=r"begun with other settings \(seed=0, now 5\); remove it"):
        Run(ring / "data", trained[0].out, config_for(ring, "seed=5"))


def test_changed_data_do_not_mix_with_a_begun_run(ring: Path, tmp_path: Path) -> None:
    Run(ring / "data", tmp_path / "v1", config_for(ring)).prepare()
    other = write_ring(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="has changed since"):
        Run(other, tmp_path / "v1", config_for(ring)).prepare()


def test_changed_titles_do_not_mix_with_a_begun_run(ring: Path, tmp_path: Path) -> None:
    data = write_ring(tmp_path / "data")
    Run(data, tmp_path / "v1", config_for(ring)).prepare()
    items = data / "items.jsonl"
    items.write_text(items.read_text().replace("Thing 3", "Something 3"))
    with pytest.raises(ConfigError, match="has changed since"):
        Run(data, tmp_path / "v1", config_for(ring)).prepare()


def test_too_many_items_for_the_codes_are_refused_before_any_work(ring: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"40 items do not fit 3\^2 codes"):
        Run(ring / "data", tmp_path / "v1", config_for(ring, "model.tokens_per_level=3")).prepare()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_train_one_model(ring: Path, tmp_path: Path) -> None:
    first = Run(ring / "data", tmp_path / "v1", config_for(ring))
    first.prepare()
    with pytest.raises(ConfigError, match="another process is training"):
        Run(ring / "data", tmp_path / "v1", config_for(ring)).prepare()


def test_an_artifact_is_not_measured_on_events_it_was_trained_on(ring: Path, trained: tuple[Run, Artifact]) -> None:
    other = leave_one_out(read_dataset(write_ring(ring / "later", seed=3)))
    with pytest.raises(ConfigError, match="trained on other events"):
        evaluate_artifact(trained[1], other)


def test_users_who_take_an_item_again_are_found_again(tmp_path: Path, ring: Path) -> None:
    """Everybody cycles through six items: a mask that hid the target would make every method useless, and a search that
    took each event for another item would hide items that nobody has had."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"u{user},i{(user + place) % 6 + user % 6 * 6},{place}" for user in range(36) for place in range(20)]
    (data / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    (data / "items.jsonl").write_text("".join(f'{{"item_id": "i{item}"}}\n' for item in range(ITEMS)))
    metrics = Run(data, tmp_path / "v1", config_for(ring)).export().manifest.metrics
    assert metrics["PRORec, guided"]["recall@5"] > 0.9


def test_a_history_of_one_item_is_enough(of_one_item: tuple[Artifact, str]) -> None:
    assert of_one_item[0].manifest.history_buckets == (1,)


def test_a_loss_that_diverges_is_said(ring: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        Run(ring / "data", tmp_path / "v1", config_for(ring, "stage1.learning_rate=1e30")).stage1()


def test_a_stage_that_diverges_at_its_last_step_is_said(ring: Path, tmp_path: Path) -> None:
    """Which no loss shows any more, and no validation by beam search."""
    one_step = ("stage2.epochs=1", "stage2.batch_size=512", "stage2.learning_rate=1e39")
    run = Run(ring / "data", tmp_path / "v1", config_for(ring, "stage1.epochs=1", *one_step))
    with pytest.raises(TrainingError, match="stage2: the weights are not finite; try a lower learning rate"):
        run.stage2()


def test_an_odd_version_name_is_refused_before_any_work(ring: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be 1–64"):
        Run(ring / "data", tmp_path / "ümlaut", config_for(ring))
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_reuses_a_whole_artifact(ring: Path, trained: tuple[Run, Artifact]) -> None:
    arguments = ["run", "--data", str(ring / "data"), "--preset", "quickstart", "--out", str(trained[0].out)]
    changes = [part for change in ring_settings(ring / "text.npy") for part in ("--set", change)]
    result = CliRunner().invoke(app, arguments + changes)
    assert result.exit_code == 0
    assert "nothing to train" in result.output
    assert "PRORec, guided" in result.output


@pytest.mark.parametrize(("length", "buckets"), [(5, (5,)), (8, (8,)), (50, (8, 16, 32, 50))])
def test_history_buckets_end_with_the_longest(length: int, buckets: tuple[int, ...]) -> None:
    assert history_buckets(length) == buckets


def test_a_dataset_is_named_as_text_whatever_its_folder_is_called(tmp_path: Path) -> None:
    assert dataset_name(tmp_path / "Bücher") == "Bücher"
    assert dataset_name(tmp_path / os.fsdecode(b"B\xfccher")) == "B\ufffdcher"


def test_an_artifact_of_other_data_or_sizes_is_not_taken_for_the_wanted_one(
    ring: Path, trained: tuple[Run, Artifact], tmp_path: Path
) -> None:
    manifest = trained[1].manifest
    Run(ring / "data", tmp_path / "v1", config_for(ring)).refuse_other(manifest)
    with pytest.raises(ConfigError, match="other events"):
        Run(write_ring(tmp_path / "data", seed=7), tmp_path / "v1", config_for(ring)).refuse_other(manifest)
    with pytest.raises(ConfigError, match=r"other settings \(model\.width=32, now 16\); remove it"):
        Run(ring / "data", tmp_path / "v1", config_for(ring, "model.width=16")).refuse_other(manifest)
    with pytest.raises(ConfigError, match=r"other settings \(refitted_from=v0, now off\); remove it"):
        Run(ring / "data", tmp_path / "v1", config_for(ring)).refuse_other(
            manifest.model_copy(update={"refitted_from": "v0"})
        )


def test_an_artifact_of_fewer_items_is_not_taken_for_the_wanted_one(
    ring: Path, trained: tuple[Run, Artifact], tmp_path: Path
) -> None:
    data = write_ring(tmp_path / "data")
    with (data / "items.jsonl").open("a") as stream:
        stream.write('{"item_id": "new"}\n')
    with pytest.raises(ConfigError, match=f"is a model of 40 items and not of the 41 in {data}; remove it"):
        Run(data, tmp_path / "v1", config_for(ring)).refuse_other(trained[1].manifest)
