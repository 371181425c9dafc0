"""Every choice of a training run, and the presets.

Sizes, temperatures, weights and schedules are ours: the paper's were not published (`docs/decisions.md`).
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.config import ModelConfig

from .errors import ConfigError

_OPTIONAL = {"tie_seed", "sasrec", "decoder_dropout", "gate_width", "gate_levels", "decoder", "measured_users"}
_OPTIONAL_STAGES = {"sasrec", "decoder"}
NO_RECIPE = ("device", "checkpoint_every_s", "tensorboard", "measured_users", "skip_wrong_rows")
"""Settings that decide nothing about what is trained."""
_LISTED = "'python -m training settings' lists all"

Quantizer = Literal["kmeans", "balanced", "rqvae"]
Integrated = Literal["concat", "collaborative", "gate", "semantic", "naive"]


class StageConfig(BaseModel):
    """One training loop: AdamW with warm-up, early stopping on validation NDCG@10."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(40, ge=1, description="at most; fewer where validation stops getting better")
    batch_size: int = Field(128, ge=1, description="windows of a history per step")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW, after the warm-up")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    patience: int = Field(5, ge=1, description="evaluations without a better validation before stopping")
    evaluate_every: int = Field(1, ge=1, description="epochs between evaluations on validation")
    accumulate: int = Field(1, ge=1, description="pieces a batch is computed in, one after the other, to save memory")
    averaging: Literal["none", "ema", "swa"] = Field(
        "none", description="weights that are validated and kept: as trained, their exponential or their plain average"
    )
    ema_decay: float = Field(0.995, gt=0, lt=1, description="a step, with averaging = ema")
    average_from: float = Field(0.0, ge=0, lt=1, description="share of the epochs after which averaging begins")


class TrainingConfig(BaseModel):
    """A whole run, from embeddings to codes to generator."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(0, ge=0, lt=2**31, description="of weights, batches and samples")
    text_encoder: str = Field(
        "minilm", min_length=1, description="'minilm', a sentence-transformers path or name, or a .npy [N, D]"
    )
    export_text_encoder: bool = Field(
        True, description="put the text encoder into the artifact, so that new items can be given as text"
    )
    tie_seed: int | None = Field(
        None, ge=0, lt=2**63, description="shuffle events of one user at one timestamp with this seed"
    )
    skip_wrong_rows: int = Field(
        0, ge=0, description="leave up to so many lines of wrong rows out of each of the two data files, with warnings"
    )
    recommender: Literal["temporal", "din"] = Field("temporal", description="network of stage I")
    integrated: Integrated = Field(
        "concat",
        description="what codes are made from: both embeddings side by side, the aligned E_C, a learned gate between"
        " both; for comparison the text's embedding alone (as TIGER does), or E_C beside the text's embedding as its"
        " encoder gives it, each trained without the other (naive; with cka_weight=0)",
    )
    quantizer: Quantizer = Field(
        "kmeans",
        description="residual k-means; balanced: with equal use of every token of the first levels; rqvae: a"
        " residual-quantized autoencoder",
    )
    item_text: bool = Field(
        False, description="stage I's item vectors are a vector of their own plus a linear map of the item's text"
    )
    cka_weight: float = Field(0.1, ge=0, description="0 trains stage I without alignment")
    cka_temperature: float = Field(0.1, gt=0, description="of the alignment's softmax")
    ikd_weight: float = Field(0.1, ge=0, description="0 trains stage II without distillation")
    ikd_temperature: float = Field(0.3, gt=0, description="of the distillation's softmax")
    sampled_items: int = Field(2048, ge=1, description="items a contrastive loss compares with")
    item_weight: float = Field(3.0, ge=0, description="weight of the item head beside the code loss in stage II")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="of codes as targets; without effect where ranking_weight is 1"
    )
    ranking_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the code loss whose targets are the item head's own probabilities; where it is all of it,"
        " a decoder that learns alone does so along codes that the item head draws",
    )
    start_from_stage1: bool = Field(True, description="stage II begins with what stage I learned, not at random")
    freeze_stage1: bool = Field(
        False,
        description="stage II trains the code decoder alone, on states without dropout; the item head stays stage I's",
    )
    softmax_items: int = Field(
        20_000,
        ge=2,
        description="above this catalog size the item head samples negatives, and codes are learned from codes alone",
    )
    model: ModelConfig = ModelConfig()
    stage1: StageConfig = StageConfig()
    stage2: StageConfig = StageConfig()
    decoder: StageConfig | None = Field(
        None,
        description="the end of stage II: the code decoder learns on alone, from an item head that is finished;"
        " validated by codes alone",
    )
    beam_widths: tuple[int, ...] = Field((20, 50, 128), description="a search graph is exported for each")
    default_beam_width: int = Field(50, description="one of them, for requests that name none")
    sasrec: StageConfig | None = Field(None, description="also train SASRec on the same data, for the table")
    measured_users: int | None = Field(
        None, ge=1, description="measure a fixed sample of so many users at the end, the same for all methods"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of losses; weights are float32; auto is bfloat16 on a GPU"
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto is a GPU where there is one")
    checkpoint_every_s: float = Field(300, ge=0, description="seconds between checkpoints inside an epoch")
    tensorboard: bool = Field(False, description="write event files into the working folder")

    def recipe(self) -> dict[str, Any]:
        """The settings that decide what is trained: not where that is done, how it is watched and on whom measured.

        Nor how many wrong rows are left out: what was read without them has a fingerprint of its own.
        """
        return self.model_dump(mode="json", exclude=set(NO_RECIPE))


def _model(**sizes: Any) -> ModelConfig:
    return ModelConfig.model_validate(sizes)


PRESETS: dict[str, TrainingConfig] = {
    # MovieLens-100k in about two minutes on two cores. Titles of films say little, and events are many.
    "quickstart": TrainingConfig(
        model=_model(code_length=3, tokens_per_level=64, width=64, heads=2, feed_forward=128, encoder_layers=1,
                     decoder_layers=1, history_length=50, dropout=0.2),
        stage1=StageConfig(epochs=20, batch_size=32, learning_rate=4e-3, patience=4, evaluate_every=2),
        stage2=StageConfig(epochs=6, batch_size=32, learning_rate=1.5e-3, patience=3, evaluate_every=2),
        sasrec=StageConfig(epochs=30, batch_size=32, learning_rate=4e-3, patience=4, evaluate_every=2),
    ),
    # Amazon Beauty on two cores.
    "small": TrainingConfig(
        item_text=True,
        ranking_weight=1.0,
        model=_model(code_length=4, tokens_per_level=256, width=128, heads=2, feed_forward=256, encoder_layers=2,
                     decoder_layers=1, history_length=50, dropout=0.4, decoder_dropout=0.1, gate_width=1024,
                     gate_levels=2),
        stage1=StageConfig(epochs=20, batch_size=256, patience=4, evaluate_every=2),
        stage2=StageConfig(epochs=6, batch_size=256, patience=3, averaging="ema"),
        decoder=StageConfig(epochs=12, batch_size=256, learning_rate=3e-3, patience=4, evaluate_every=3,
                            averaging="ema"),
        sasrec=StageConfig(epochs=20, batch_size=256, patience=4, evaluate_every=2),
    ),
    # The same, with a network of the size of the published tables; many hours on two cores.
    "paper": TrainingConfig(
        item_text=True,
        ranking_weight=1.0,
        model=_model(code_length=4, tokens_per_level=256, width=256, heads=4, feed_forward=1024, encoder_layers=3,
                     decoder_layers=2, history_length=50, dropout=0.4, decoder_dropout=0.1, gate_width=1024),
        stage1=StageConfig(epochs=150, batch_size=256, patience=8, evaluate_every=2),
        stage2=StageConfig(epochs=60, batch_size=256, patience=8, evaluate_every=2, averaging="ema"),
        decoder=StageConfig(epochs=40, batch_size=256, learning_rate=3e-3, patience=4, evaluate_every=3,
                            averaging="ema"),
        sasrec=StageConfig(epochs=150, batch_size=256, patience=8, evaluate_every=2),
    ),
}  # fmt: skip


def load_config(preset: str, overrides: list[str]) -> TrainingConfig:
    """A preset with `name=value` changes; dots reach inside (`stage1.epochs=3`, `model.generator=encoder_decoder`), and
    an empty value switches `sasrec`, `decoder`, `tie_seed`, `measured_users` or, of `model`, `decoder_dropout`,
    `gate_width` or `gate_levels` off.

    Raises ConfigError naming the setting and the value it refused.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    values = PRESETS[preset].model_dump()
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} does not set anything; write NAME=VALUE, such as stage1.epochs=3")
        target = values
        *path, last = name.split(".")
        for part in path:
            if part in _OPTIONAL_STAGES and values[part] is None:
                values[part] = StageConfig().model_dump()  # its first setting switches it on
            target = target.get(part, {}) if isinstance(target, dict) else {}
        if not isinstance(target, dict) or last not in target:
            raise ConfigError(f"there is no setting {name!r}{_nearest(name, values)}; {_LISTED}")
        if isinstance(target[last], dict) or last in _OPTIONAL_STAGES:
            _refuse_group(name, value)
        if last in _OPTIONAL and not value:
            target[last] = None
        else:
            target[last] = value.strip("[]()").split(",") if isinstance(target[last], tuple | list) else value
    return validated(values)


def _nearest(name: str, values: Mapping[str, Any]) -> str:
    nearest = get_close_matches(name, list(_names(values)), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _names(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _names(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def _refuse_group(name: str, value: str) -> None:
    """A group has no value; an empty one switches a stage off that a run can do without."""
    if value or name not in _OPTIONAL_STAGES:
        raise ConfigError(f"{name} is a group of settings; set one of them, as in {name}.NAME=VALUE; {_LISTED}")


def validated(values: dict[str, Any]) -> TrainingConfig:
    """The configuration these values describe; ConfigError for one that cannot be used."""
    try:
        config = TrainingConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{name}={first['input']!r}: {first['msg']}") from None
    widths = config.beam_widths
    if not widths or widths[0] < 1 or list(widths) != sorted(set(widths)):
        raise ConfigError(f"beam_widths={list(widths)}: they must be above 0, each larger than the one before")
    if config.default_beam_width not in config.beam_widths:
        raise ConfigError(f"default_beam_width={config.default_beam_width} is not one of {config.beam_widths}")
    if config.ranking_weight and not config.item_weight and not config.freeze_stage1:
        raise ConfigError(f"ranking_weight={config.ranking_weight:g} needs an item head: item_weight above 0")
    if config.model.generator == "encoder_decoder" and config.model.code_length < 2:
        raise ConfigError("model.generator=encoder_decoder needs model.code_length above 1: it cannot be exported else")
    if config.freeze_stage1 and (config.model.generator != "temporal" or not config.start_from_stage1):
        raise ConfigError("freeze_stage1=true needs model.generator=temporal and start_from_stage1=true")
    if config.text_encoder.endswith(".npy") and not Path(config.text_encoder).is_file():
        raise ConfigError(f"text_encoder={config.text_encoder!r}: no such file")
    return config
