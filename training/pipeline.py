"""A whole run, step by step, each resumable: prepare → stage I → quantize → stage II → export with metrics.

A step whose result is there is not done again. Results lie in `<out>.work/`, or in a store that many runs share
(`training.study`), by the settings they depend on.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.artifact import Artifact, Manifest, check_model_version
from models.codes import CodeTable
from models.errors import ArtifactError
from models.item_text import item_text
from models.whole_files import put_whole

from .batches import Windows
from .collaborative import Collaborative, CollaborativeTask, Embeddings, fused_embeddings
from .config import TrainingConfig
from .errors import ConfigError
from .finish import Chosen, Finish, finished_tables, item_encoder_of
from .generator import GeneratorModel, GeneratorTask
from .interactions import Split, leave_one_out, read_dataset
from .item_encoder import ItemEncoderPart
from .loop import Progress, fit
from .machine import Machine
from .quantize import make_codes
from .settings_list import told_changes
from .step_settings import StepSettings
from .text import Standardisation, encode_items, is_precomputed, load_encoder
from .text_export import TextEncoderFiles, export_text_encoder
from .work_folder import Arrays, WorkFolder

_PROOF_TEXTS = 32
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """One training run and its working folder.

    data    dataset folder
    out     the artifact to be written; its name is the model version
    shared  store of steps that other runs may have done already; None: all is this run's own
    chosen  makes it a refit (`training.refit`): it learns from all events, for as long as is said here
    test    whether the artifact is measured on the test set; else on the validation set, and the test set left alone
    """

    data: Path
    out: Path
    config: TrainingConfig
    shared: Path | None = None
    chosen: Chosen | None = None
    test: bool = True

    def __post_init__(self) -> None:
        try:
            check_model_version(self.out.name)
        except ArtifactError as error:
            raise ConfigError(f"--out {self.out}: {error}") from None
        chosen = asdict(self.chosen) if self.chosen else None
        self.folder = WorkFolder(self.work, self.config, self.shared, chosen)
        self.progress: dict[str, Progress] = {}
        self._read: dict[str, Arrays] = {}

    @property
    def work(self) -> Path:
        return self.out.with_name(f"{self.out.name}.work")

    @cached_property
    def machine(self) -> Machine:
        return Machine.of(self.config)

    @cached_property
    def split(self) -> Split:
        config = self.config
        data = read_dataset(self.data, tie_seed=config.tie_seed, skip_wrong_rows=config.skip_wrong_rows)
        if is_precomputed(config.text_encoder) and not data.whole_catalog:
            raise ConfigError(f"{config.text_encoder} has a row for each item, so wrong items cannot be left out")
        if self.machine.leads:
            _LOG.info("data: %d users, %d items, %d events", len(data.user_ids), len(data.item_ids), len(data.events))
        split = leave_one_out(data)
        return split.learned_whole() if self.chosen else split

    @cached_property
    def settings(self) -> StepSettings:
        return StepSettings(self.config, self.split)

    @property
    def item_count(self) -> int:
        return len(self.split.interactions.item_ids)

    def prepare(self) -> NDArray[np.float32]:
        """Reads and splits the data, embeds the items' text, standardised: float32 [N, D_S]."""
        self.text_encoder()
        return self.standardisation()(self.raw_semantic())

    def raw_semantic(self) -> NDArray[np.float32]:
        """E_S of every item as its encoder gives it, float32 [N, D_S]."""
        self._claim()
        items, encoder = self.split.interactions.items, self.config.text_encoder
        encode: Callable[[], Arrays] = lambda: {"raw": encode_items(items, encoder, self.machine.device)}  # noqa: E731
        return self._arrays("text", self.settings.text(), encode)["raw"]

    def standardisation(self) -> Standardisation:
        """That of this catalog's embeddings; a new item is brought to the same scale."""
        return Standardisation.of(self.raw_semantic())

    def text_encoder(self) -> TextEncoderFiles | None:
        """The encoder as the artifact will carry it; made first of all, so that one that cannot be fails early."""
        return self._text_encoder

    @cached_property
    def _text_encoder(self) -> TextEncoderFiles | None:
        if not self.config.export_text_encoder or is_precomputed(self.config.text_encoder):
            return None
        self._claim()
        with self.folder.step("text_encoder", self.settings.text()) as folder:
            done = folder / "text_encoder"
            if self.machine.leads and not done.exists():
                put_whole(self._export_text_encoder(folder / "text_encoder.writing"), done)
            self.machine.wait()
            return TextEncoderFiles(done, (done / "name").read_text())

    def _export_text_encoder(self, aside: Path) -> Path:
        aside.mkdir(exist_ok=True)
        texts = [item_text(item) for item in self.split.interactions.items[:_PROOF_TEXTS]]
        encoder = load_encoder(self.config.text_encoder)
        exported = export_text_encoder(encoder, self.config.text_encoder, texts, aside)
        (aside / "name").write_text(exported.name)
        return aside

    def refuse_other(self, manifest: Manifest) -> None:
        """Raises ConfigError where an artifact is of other data, or of a network of other sizes, than this run's."""
        if manifest.training_fingerprint != self.split.fingerprint():
            raise ConfigError(f"{self.out} was trained on other events; remove it or choose another --out")
        if manifest.item_count != self.item_count:
            items = f"{manifest.item_count} items and not of the {self.item_count} in {self.data}"
            raise ConfigError(f"{self.out} is a model of {items}; remove it or choose another --out")
        found = {"model": manifest.config.model_dump(mode="json"), "refitted_from": manifest.refitted_from}
        version = self.chosen.version if self.chosen else None
        wanted = {"model": self.config.model.model_dump(mode="json"), "refitted_from": version}
        if told := told_changes(found, wanted):
            raise ConfigError(f"{self.out} was trained with other settings ({told}); remove it or choose another --out")

    def stage1(self) -> tuple[Collaborative, CollaborativeTask]:
        """The recommender with aligned embeddings."""
        return self._stage1

    @cached_property
    def _stage1(self) -> tuple[Collaborative, CollaborativeTask]:
        return self._recommender(self.config, "stage1")

    def sasrec(self) -> tuple[Collaborative, CollaborativeTask] | None:
        """The same recommender without text, alignment or codes, as the baseline."""
        return self._sasrec

    @cached_property
    def _sasrec(self) -> tuple[Collaborative, CollaborativeTask] | None:
        if self.config.sasrec is None:
            return None
        plain = {"cka_weight": 0.0, "item_text": False, "integrated": "collaborative", "recommender": "temporal"}
        return self._recommender(self.config.model_copy(update=plain | {"stage1": self.config.sasrec}), "sasrec")

    def embeddings(self) -> Embeddings:
        """E_C, E_T and the integrated embedding of every item."""
        stage1 = self.stage1()[0]
        warm = self.split.train.trained(self.item_count)
        fuse: Callable[[], Arrays] = lambda: vars(fused_embeddings(stage1, self.config, warm))  # noqa: E731
        return Embeddings(**self._arrays("embeddings", self.settings.embeddings(), fuse))

    def codes(self) -> CodeTable:
        """One unique code per item."""
        return CodeTable(self.quantized()["tokens"], self.config.model.tokens_per_level)

    def codebooks(self) -> NDArray[np.float32]:
        """float32 [L, V, D_I]; new items get their codes from them."""
        return self.quantized()["codebooks"]

    def quantized(self) -> Arrays:
        """tokens int32 [N, L], nearest int32 [N, L] (before codes were made unique), codebooks float32 [L, V, D_I]."""
        integrated = self.embeddings().integrated
        return self._arrays("codes", self.settings.codes(), lambda: make_codes(integrated, self.config))

    def stage2(self) -> tuple[GeneratorModel, GeneratorTask]:
        """The generator."""
        return self._stage2[:2]

    def item_encoder(self) -> ItemEncoderPart:
        """What the artifact takes new items with, and training those it has learned nothing about."""
        return self._stage2[2]

    @cached_property
    def _stage2(self) -> tuple[GeneratorModel, GeneratorTask, ItemEncoderPart]:
        codes = self.codes()
        torch.manual_seed(self.config.seed + 2)
        model = GeneratorModel(self.config, self.embeddings(), codes)
        if self.config.start_from_stage1:
            model.start_from(self.stage1()[0], codes)
        if self.config.freeze_stage1:
            model.freeze()
        task = GeneratorTask(model, self.config, self.split, codes)
        windows = Windows.cut(self.split.train, self.config.model.history_length)
        with self.folder.step("stage2", self.settings.stage2()) as folder:
            progress = fit(
                task, windows, self.config.stage2, self.config.seed, "stage2", folder, self.machine,
                epochs=self._epochs("stage2"),
            )  # fmt: skip
        self._report("stage2", progress)
        encoder = item_encoder_of(self, model)
        task.finish_items(finished_tables(self, model, encoder))
        if self.config.decoder is not None:
            task.leave_to_decoder()
            with self.folder.step("decoder", self.settings.decoder()) as folder:
                progress = fit(
                    task, windows, self.config.decoder, self.config.seed, "decoder", folder, self.machine,
                    from_start=True, epochs=self._epochs("decoder"),
                )  # fmt: skip
            self._report("decoder", progress)
        return model, task, encoder

    def export(self) -> Artifact:
        """Proves the graph, measures held-out events through it, writes the artifact; the first process of a team does.

        A refit measures nothing: it has learned from the test set.
        """
        self.stage2()
        self.sasrec()
        if self.machine.leads:
            finish = Finish(self)
            finish.write(finish.metrics)
        self.machine.wait()
        return Artifact.open(self.out)

    def _recommender(self, config: TrainingConfig, name: str) -> tuple[Collaborative, CollaborativeTask]:
        semantic = torch.from_numpy(self.prepare())
        torch.manual_seed(config.seed + 1)
        model = Collaborative(config, self.item_count, semantic)
        task = CollaborativeTask(model, config, self.split)
        windows = Windows.cut(self.split.train, config.model.history_length)
        with self.folder.step("recommender", self.settings.recommender(config)) as folder:
            file = name if self.shared is None else "recommender"
            progress = fit(
                task, windows, config.stage1, config.seed, file, folder, self.machine, epochs=self._epochs(name)
            )
        self._report(name, progress)
        return model, task

    def _epochs(self, name: str) -> int | None:
        """How many epochs a stage of a refit has; None: validation decides."""
        return self.chosen.epochs[name] if self.chosen else None

    def _arrays(self, name: str, settings: dict[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """Made by the first process of a team, read by all, and waited for once: the first one finishes alone."""
        if name not in self._read:
            if self.machine.leads:
                self.folder.arrays(name, settings, make)
            self.machine.wait()
            self._read[name] = self.folder.arrays(name, settings, make)
        return self._read[name]

    def _claim(self) -> None:
        """Takes the working folder, once settings and data are known to be usable."""
        sizes = self.config.model
        if self.item_count > sizes.tokens_per_level**sizes.code_length:
            raise ConfigError(
                f"{self.item_count} items do not fit {sizes.tokens_per_level}^{sizes.code_length} codes; "
                "raise model.tokens_per_level or model.code_length"
            )
        if self.machine.leads and not self.folder.claimed:
            self.folder.claim(self.data, self.settings.data)

    def _report(self, name: str, progress: Progress) -> None:
        self.progress[name] = progress
        if self.machine.leads and self.chosen:
            epochs = f"{progress.epoch} epoch{'s' if progress.epoch > 1 else ''}"
            _LOG.info("%s: %s on all events, %.0f s of training", name, epochs, progress.seconds)
        elif self.machine.leads:
            _LOG.info(
                "%s: best validation NDCG@10 %.4f at epoch %d of %d, %.0f s of training, %.0f samples/s",
                name, progress.best, progress.best_epoch, progress.epoch, progress.seconds, progress.samples_per_s,
            )  # fmt: skip
