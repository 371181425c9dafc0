from importlib import metadata

import pytest
from typer.testing import CliRunner

from training.__main__ import app
from training.config import PRESETS, TrainingConfig, load_config
from training.errors import ConfigError
from training.settings_list import told_changes


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_valid(preset: str) -> None:
    assert load_config(preset, []) == PRESETS[preset]


def test_an_override_reaches_inside() -> None:
    config = load_config("small", ["stage1.epochs=3", "model.generator=encoder_decoder", "seed=7", "sasrec="])
    assert (config.stage1.epochs, config.model.generator, config.seed) == (3, "encoder_decoder", 7)
    assert config.sasrec is None


def test_a_list_is_written_with_commas() -> None:
    assert load_config("small", ["beam_widths=10,50"]).beam_widths == (10, 50)
    assert load_config("small", ["beam_widths=10,50", "beam_widths=50,60"]).beam_widths == (50, 60), "the last one wins"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stage1.epochs", "does not set anything"),
        (
            "stage1.epoch=3",
            r"no setting 'stage1\.epoch' \(did you mean stage1\.epochs\?\); 'python -m training settings' lists all",
        ),
        ("nonsense=1", "no setting 'nonsense'; 'python -m training settings' lists all"),
        ("seed.epochs=3", r"no setting 'seed\.epochs'"),
        ("stage1=", "stage1 is a group of settings; set one of them"),
        ("stage1=3", "stage1 is a group of settings"),
        ("sasrec=3", "sasrec is a group of settings"),
        ("decoder.epoch=3", r"did you mean decoder\.epochs\?"),
        ("stage1.epochs=many", r"stage1.epochs='many'"),
        ("stage1.epochs=0", r"stage1.epochs='0'"),
        ("model.width=33", "not a multiple of heads"),
        ("default_beam_width=3", "is not one of"),
        ("beam_widths=128,20,50", r"beam_widths=\[128, 20, 50\]: they must be above 0, each larger"),
        ("beam_widths=20,50,50", "each larger than the one before"),
        ("beam_widths=0,50", "above 0"),
        ("beam_widths=-5,50", "above 0"),
        ("tie_seed=-1", "tie_seed='-1'"),
        (f"tie_seed={10**70}", "tie_seed"),
        ("text_encoder=/nowhere/x.npy", "no such file"),
        ("stage1.learning_rate=inf", r"stage1.learning_rate='inf'"),
        ("item_weight=inf", r"item_weight='inf'"),
        ("cka_temperature=nan", r"cka_temperature='nan'"),
    ],
)
def test_a_wrong_override_is_named(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config("small", [override])


def test_a_network_that_cannot_be_exported_is_refused_before_it_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"needs model\.code_length above 1"):
        load_config("small", ["model.generator=encoder_decoder", "model.code_length=1"])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_an_artifact_is_measured_with_a_tie_seed_that_a_run_can_have(seed: int) -> None:
    result = CliRunner().invoke(app, ["evaluate", "artifact", "--data", "data", "--tie-seed", str(seed)])
    assert result.exit_code == 2
    assert "--tie-seed" in result.output


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="quickstart, small, paper"):
        load_config("huge", [])


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_setting_is_listed_as_it_is_set_and_with_its_meaning(preset: str) -> None:
    listed = CliRunner().invoke(app, ["settings", "--preset", preset]).stdout.splitlines()
    settings, meanings = zip(*(line.split(maxsplit=1) for line in listed), strict=True)
    assert all(meanings)
    assert {name.partition("=")[0].partition(".")[0] for name in settings} == set(TrainingConfig.model_fields)
    other = next(name for name in sorted(PRESETS) if name != preset)
    assert load_config(other, list(settings)) == PRESETS[preset]


def test_the_choices_of_a_setting_are_listed() -> None:
    listed = CliRunner().invoke(app, ["settings"]).stdout
    assert "stage1.averaging=none               none | ema | swa: weights that" in listed


@pytest.mark.parametrize("command", ["run", "prepare", "train", "export"])
def test_help_says_how_settings_are_listed(command: str) -> None:
    words = CliRunner().invoke(app, [command, "--help"], terminal_width=200).stdout.split()
    assert "'python -m training settings' lists all, with defaults." in " ".join(words).replace(" │ │ ", " ")


def test_of_settings_that_have_changed_the_first_are_told() -> None:
    before = load_config("quickstart", ["tie_seed=7"]).recipe()
    changes = ["seed=5", "tie_seed=", "stage1.epochs=3", "beam_widths=20,50", "sasrec="]
    assert told_changes(before, before) == ""
    assert told_changes(before, load_config("quickstart", [*changes[:1], "tie_seed=7"]).recipe()) == "seed=0, now 5"
    told = told_changes(before, load_config("quickstart", changes).recipe())
    assert told == "seed=0, now 5; tie_seed=7, now off; stage1.epochs=20, now 3; and 2 more"
    assert told_changes({"sasrec": None}, {"sasrec": {"epochs": 3}}) == "sasrec=off, now on"


def test_a_ranking_is_learned_only_from_an_item_head_that_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"ranking_weight=0\.5 needs an item head"):
        load_config("quickstart", ["ranking_weight=0.5", "item_weight=0"])
    load_config("quickstart", ["ranking_weight=0.5", "item_weight=0", "freeze_stage1=true"])


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"{metadata.version('prorec-serve')}\n")
