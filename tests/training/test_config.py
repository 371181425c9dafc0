import pytest

from training.config import PRESETS, load_config
from training.errors import ConfigError


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_valid(preset: str) -> None:
    assert load_config(preset, []) == PRESETS[preset]


def test_an_override_reaches_inside() -> None:
    config = load_config("small", ["stage1.epochs=3", "model.generator=encoder_decoder", "seed=7", "sasrec="])
    assert (config.stage1.epochs, config.model.generator, config.seed) == (3, "encoder_decoder", 7)
    assert config.sasrec is None


def test_a_list_is_written_with_commas() -> None:
    assert load_config("small", ["beam_widths=10,50"]).beam_widths == (10, 50)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stage1.epochs", "does not set anything"),
        ("stage1.epoch=3", "does not set anything"),
        ("stage1.epochs=many", r"stage1.epochs='many'"),
        ("stage1.epochs=0", r"stage1.epochs='0'"),
        ("model.width=33", "not a multiple of heads"),
        ("default_beam_width=3", "is not one of"),
        ("text_encoder=/nowhere/x.npy", "no such file"),
    ],
)
def test_a_wrong_override_is_named(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config("small", [override])


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="quickstart, small, paper"):
        load_config("huge", [])
