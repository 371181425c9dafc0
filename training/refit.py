"""A refit: a finished run's recipe trained anew on all events, each stage for the epochs that validation chose.

A run never learns from anybody's last two events, and so knows nothing of the newest items. Its refit does, with the
run's schedules, rescoring weight and item gain; no event is left to measure it by, so it carries the run's figures.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from models.artifact import Artifact, Manifest

from .checkpoint import read_progress
from .config import NO_RECIPE, StageConfig, TrainingConfig, validated
from .errors import ConfigError
from .finish import Chosen
from .loop import Progress
from .pipeline import Run
from .whole_files import intact
from .work_folder import read_json

_APART = tuple(name for name in NO_RECIPE if name != "measured_users")  # a refit measures nobody
_NEEDED = "a refit needs the working folder of a finished run"
_LOG = logging.getLogger(__name__)


def refit_run(data: Path, source: Path, out: Path, changes: Sequence[str] = ()) -> Run:
    """The run that trains as the one of the artifact `source` did, but on all events, and writes `out`.

    changes  `name=value` for settings that decide where it is trained and how that is watched; all others are the run's

    Raises ConfigError where that run is not finished, was of other data, or its working folder is gone.
    """
    if out.resolve() == source.resolve():
        raise ConfigError(f"--out {out} is the artifact to be refitted; choose another --out")
    run, manifest = _finished_run(data, source, _apart(changes))
    _LOG.info("what validation chose in the run of %s:", source)
    chosen = Chosen(
        version=manifest.model_version,
        epochs={name: _best_epoch(run.work / f"{name}.safetensors", stage) for name, stage in _stages(run.config)},
        rescore_weight=manifest.rescore_weight,
        item_gain=run.item_encoder().network.gain,
        metrics=manifest.metrics,
        metrics_of=manifest.metrics_of,
    )
    told = ", ".join(f"{name} {epochs}" for name, epochs in chosen.epochs.items())
    _LOG.info("the refit trains on all events, epochs: %s", told)
    return Run(data, out, run.config.model_copy(update={"sasrec": None}), chosen=chosen)


def _apart(changes: Sequence[str]) -> dict[str, str]:
    values = dict(change.partition("=")[::2] for change in changes)
    if wrong := [name for name in values if name not in _APART]:
        raise ConfigError(f"{wrong[0]} is as in the run that is refitted; --set takes {', '.join(_APART)} here")
    return values


def _finished_run(data: Path, source: Path, apart: dict[str, str]) -> tuple[Run, Manifest]:
    work = source.with_name(f"{source.name}.work")
    if work.exists() and not source.exists():
        raise ConfigError(f"the run of {source} is not finished; finish it before it is refitted")
    if not source.is_dir():
        raise ConfigError(f"{source} is not a folder")
    manifest = Artifact.open(source).manifest
    if manifest.refitted_from:
        raise ConfigError(f"{source} is a refit itself; refit {manifest.refitted_from}, the run that it was made from")
    if not (work / "config.json").exists():
        raise ConfigError(f"{work} is gone: {_NEEDED}")
    run = Run(data, source, validated(read_json(work / "config.json", _NEEDED) | apart))
    begun_with = read_json(work / "data.json", _NEEDED)["sha256"]
    if begun_with != run.settings.data or manifest.training_fingerprint != run.split.fingerprint():
        raise ConfigError(f"{data} is not what {source} was trained on; a refit needs the same data")
    if manifest.config != run.config.model:
        raise ConfigError(f"{work} is the working folder of another run than that of {source}")
    return run, manifest


def _stages(config: TrainingConfig) -> list[tuple[str, StageConfig]]:
    """Name and settings of every stage that becomes a part of the artifact."""
    decoder = [("decoder", config.decoder)] if config.decoder else []
    return [("stage1", config.stage1), ("stage2", config.stage2), *decoder]


def _best_epoch(checkpoint: Path, stage: StageConfig) -> int:
    if not checkpoint.exists():
        raise ConfigError(f"{checkpoint} is gone: {_NEEDED}")
    with intact(checkpoint, _NEEDED):
        progress = Progress(**read_progress(checkpoint))
    if not progress.finished(stage):
        raise ConfigError(f"{checkpoint} is of a training that has not ended; a refit needs one that has")
    return progress.best_epoch
