"""A whole run, step by step, each resumable: prepare → stage I → quantize → stage II → export with test metrics.

Everything a step leaves lies in `<out>.work/`; a step whose result is there is not done again.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.artifact import Artifact, Manifest, check_model_version
from models.codes import CodeTable
from models.graph import Inputs
from models.item_text import item_text
from models.network import TemporalGenerator
from models.quantizer import quantize

from .code_writer import CodeWriter, fit_code_writer
from .collaborative import Collaborative, CollaborativeTask, Embeddings, fused_embeddings, training_windows
from .config import TrainingConfig
from .errors import ConfigError
from .evaluate import Metrics, compare, prorec_metrics, rank_by_popularity, rank_by_scores
from .export import GraphSearch
from .generator import GeneratorModel, GeneratorTask, eager_search
from .interactions import Split, leave_one_out, read_dataset
from .item_encoder import ItemEncoderNetwork, ItemEncoderPart, fit_item_encoder
from .item_gain import Events
from .loop import Progress, fit
from .package import Package, write_artifact
from .text import Standardisation, encode_items, is_precomputed, load_encoder
from .text_export import TextEncoderFiles, export_text_encoder
from .work_folder import fingerprint, lock, write_once

_PROOF_HISTORIES = 64
_PROOF_ITEMS = 256
_PROOF_TEXTS = 32
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """One training run and its working folder.

    data    dataset folder
    out     the artifact to be written; its name is the model version
    """

    data: Path
    out: Path
    config: TrainingConfig

    def __post_init__(self) -> None:
        check_model_version(self.out.name)
        self._claimed = False
        self._refuse_other_settings()
        torch.manual_seed(self.config.seed)

    @property
    def work(self) -> Path:
        return self.out.with_name(f"{self.out.name}.work")

    @cached_property
    def split(self) -> Split:
        return leave_one_out(read_dataset(self.data, tie_seed=self.config.tie_seed))

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
        encode: Callable[[], dict[str, NDArray[Any]]] = lambda: {  # noqa: E731
            "raw": encode_items(self.split.interactions.items, self.config.text_encoder)
        }
        return self._arrays("text", encode)["raw"]

    def standardisation(self) -> Standardisation:
        """That of this catalog's embeddings; a new item is brought to the same scale."""
        return Standardisation.of(self.raw_semantic())

    def text_encoder(self) -> TextEncoderFiles | None:
        """The encoder as the artifact will carry it; made first of all, so that one that cannot be fails early."""
        if not self.config.export_text_encoder or is_precomputed(self.config.text_encoder):
            return None
        self._claim()
        done = self.work / "text_encoder"
        if not done.exists():
            aside = self.work / "text_encoder.writing"
            aside.mkdir(exist_ok=True)
            texts = [item_text(item) for item in self.split.interactions.items[:_PROOF_TEXTS]]
            encoder = load_encoder(self.config.text_encoder)
            exported = export_text_encoder(encoder, self.config.text_encoder, texts, aside)
            (aside / "name").write_text(exported.name)
            aside.rename(done)
        return TextEncoderFiles(done, (done / "name").read_text())

    def refuse_other(self, manifest: Manifest) -> None:
        """Raises ConfigError where an artifact is of other data, or of a network of other sizes, than this run's."""
        if manifest.training_fingerprint != self.split.fingerprint():
            raise ConfigError(f"{self.out} was trained on other events; remove it or choose another --out")
        if manifest.config != self.config.model or manifest.item_count != self.item_count:
            raise ConfigError(f"{self.out} was trained with other settings; remove it or choose another --out")

    def stage1(self) -> tuple[Collaborative, CollaborativeTask]:
        """The recommender with aligned embeddings."""
        return self._stage1

    @cached_property
    def _stage1(self) -> tuple[Collaborative, CollaborativeTask]:
        return self._recommender(self.config, "stage1")

    def sasrec(self) -> CollaborativeTask | None:
        """The same recommender without text, alignment or codes, as the baseline."""
        if self.config.sasrec is None:
            return None
        plain = {"cka_weight": 0.0, "integrated": "collaborative", "recommender": "temporal"}
        config = self.config.model_copy(update=plain | {"stage1": self.config.sasrec})
        return self._recommender(config, "sasrec")[1]

    def embeddings(self) -> Embeddings:
        """E_C, E_T and the integrated embedding of every item."""

        def fuse() -> dict[str, NDArray[Any]]:
            fused = fused_embeddings(self.stage1()[0], self.config, self.split.train.counts(self.item_count))
            return vars(fused)

        return Embeddings(**self._arrays("embeddings", fuse))

    def codes(self) -> CodeTable:
        """One unique code per item."""
        return CodeTable(self._quantized()["tokens"], self.config.model.tokens_per_level)

    def codebooks(self) -> NDArray[np.float32]:
        """float32 [L, V, D_I]; new items get their codes from them."""
        return self._quantized()["codebooks"]

    def _quantized(self) -> dict[str, NDArray[Any]]:
        sizes = self.config.model

        def make() -> dict[str, NDArray[Any]]:
            made = quantize(self.embeddings().integrated, sizes.code_length, sizes.tokens_per_level, self.config.seed)
            used = made.codes.used_tokens()
            _LOG.info(
                "codes: %.1f %% of items collided before, %.1f %% were moved; tokens used per level %s of %d",
                100 * made.collision_rate, 100 * made.moved_rate, used, sizes.tokens_per_level,
            )  # fmt: skip
            return {"tokens": made.codes.tokens, "codebooks": made.codebooks}

        return self._arrays("codes", make)

    def stage2(self) -> tuple[GeneratorModel, GeneratorTask]:
        """The generator."""
        codes = self.codes()
        torch.manual_seed(self.config.seed + 2)
        model = GeneratorModel(self.config, self.embeddings(), codes)
        model.start_from(self.stage1()[0], codes)
        task = GeneratorTask(model, self.config, self.split, codes)
        windows = training_windows(self.split, self.config.model.history_length)
        self._report("stage2", fit(task, windows, self.config.stage2, self.config.seed, "stage2", self.work))
        return model, task

    def export(self) -> Artifact:
        """Proves the graph, measures the test set through it, writes the artifact."""
        model, task = self.stage2()
        encoder = self._item_encoder(model)
        tables = self._tables(model, encoder)
        found = eager_search(model, task.trie, self.split.valid, self.config, tables=tables)
        weight, _ = found.best_weight(self.split.valid.target)
        package = self._package(model, encoder, tables, weight)
        return write_artifact(self.out, package, lambda searches: self._test_metrics(searches, task, weight))

    def _item_encoder(self, model: GeneratorModel) -> ItemEncoderPart:
        """Fitted on what the items of training events have become."""
        temporal = model.temporal
        warm = torch.from_numpy(self.split.train.counts(self.item_count) > 0)
        events = Events.of(self.split.valid, self.item_count, model.user_states)
        network = fit_item_encoder(
            self.stage1()[0],
            model.item.detach(),
            warm,
            events,
            self.standardisation(),
            model.project if temporal else None,
            self.config.integrated,
        )
        return ItemEncoderPart(
            network,
            self.codebooks(),
            model.token_input.detach().numpy() if temporal else None,
            self.raw_semantic()[:_PROOF_ITEMS],
            self._code_writer(model, network, warm, events.queries),
        )

    def _code_writer(
        self, model: GeneratorModel, network: ItemEncoderNetwork, warm: torch.Tensor, states: torch.Tensor
    ) -> CodeWriter | None:
        """None where codes have one token or a user is more than one state."""
        if not isinstance(model.generator, TemporalGenerator) or self.config.model.code_length == 1:
            return None
        integrated = torch.from_numpy(network.encode(self.raw_semantic()[warm.numpy()]).integrated)
        vectors, codes = model.item.detach()[warm], model.codes[warm]
        return fit_code_writer(model.generator, integrated, vectors, codes, states, self.codebooks()[0])

    def _tables(self, model: GeneratorModel, encoder: ItemEncoderPart) -> Inputs:
        """What the artifact's items are: learned, or where training never saw them in an event, from their text."""
        tables = model.tables()
        cold = np.flatnonzero(self.split.train.counts(self.item_count) == 0)
        if len(cold):
            encoded = encoder.network.encode(self.raw_semantic()[cold])
            tables["item_output"][cold] = encoded.item_output
            if encoder.token_input is not None:
                parts = encoder.token_input[np.arange(self.config.model.code_length), self.codes().tokens[cold]]
                tables["item_input"][cold] = encoded.item_input + parts.sum(axis=1)
        return tables

    def _package(self, model: GeneratorModel, encoder: ItemEncoderPart, tables: Inputs, weight: float) -> Package:
        data, config = self.split.interactions, self.config
        counts = self.split.train.counts(self.item_count)
        rows = range(min(_PROOF_HISTORIES, len(self.split.valid)))
        return Package(
            generator=model.generator,
            codes=self.codes(),
            item_ids=data.item_ids,
            metadata=data.items,
            item_input=tables["item_input"],
            item_output=tables["item_output"],
            popularity=np.argsort(-counts, kind="stable").astype(np.int32),
            histories=[self.split.valid.history(row) for row in rows],
            beam_widths=config.beam_widths,
            default_beam_width=config.default_beam_width,
            history_buckets=history_buckets(config.model.history_length),
            rescore_weight=weight,
            dataset=self.data.resolve().name,
            training_fingerprint=self.split.fingerprint(),
            item_encoder=encoder,
            text_encoder=self.text_encoder(),
        )

    def _test_metrics(self, searches: dict[int, GraphSearch], task: GeneratorTask, weight: float) -> Metrics:
        metrics = rank_by_popularity(self.split, self.item_count).metrics("popularity")
        search = searches[self.config.default_beam_width]
        of_prorec, rescored = prorec_metrics(self.split, search, task.trie, weight)
        baseline = self.sasrec()
        if baseline is None:
            return metrics | of_prorec
        sasrec = rank_by_scores(self.split.test, baseline.rank_scores)
        versus = {"PRORec, rescored − SASRec": compare(rescored, sasrec)}
        return metrics | sasrec.metrics("SASRec") | of_prorec | versus

    def _recommender(self, config: TrainingConfig, name: str) -> tuple[Collaborative, CollaborativeTask]:
        semantic = torch.from_numpy(self.prepare())
        torch.manual_seed(config.seed + 1)
        model = Collaborative(config, self.item_count, semantic)
        task = CollaborativeTask(model, config, self.split)
        windows = training_windows(self.split, config.model.history_length)
        self._report(name, fit(task, windows, config.stage1, config.seed, name, self.work))
        return model, task

    def _arrays(self, name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """The arrays of a step, made once and kept in `name`.npz."""
        path = self.work / f"{name}.npz"
        if not path.exists():
            aside = path.with_suffix(".writing.npz")
            np.savez(aside, **make())  # type: ignore[arg-type]
            aside.replace(path)
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    def _refuse_other_settings(self) -> None:
        """Two configurations must not mix in one working folder."""
        path = self.work / "config.json"
        if path.exists() and json.loads(path.read_text()) != json.loads(self.config.model_dump_json()):
            raise ConfigError(f"{self.work} was begun with other settings; remove it or choose another --out")

    def _claim(self) -> None:
        """Takes the working folder for this process, these settings and these data, once they are known to be usable.

        Raises ConfigError where another process works in it, or where it was begun with other data.
        """
        if self._claimed:
            return
        sizes = self.config.model
        if self.item_count > sizes.tokens_per_level**sizes.code_length:
            raise ConfigError(
                f"{self.item_count} items do not fit {sizes.tokens_per_level}^{sizes.code_length} codes; "
                "raise model.tokens_per_level or model.code_length"
            )
        self.work.mkdir(parents=True, exist_ok=True)
        lock(self, self.work / "lock")
        found = {"sha256": fingerprint(self.split, self.config.text_encoder)}
        path = self.work / "data.json"
        if path.exists() and json.loads(path.read_text()) != found:
            raise ConfigError(f"{self.data} has changed since {self.work} was begun; remove the folder to start anew")
        write_once(path, json.dumps(found))
        write_once(self.work / "config.json", self.config.model_dump_json(indent=2))
        self._claimed = True

    def _report(self, name: str, progress: Progress) -> None:
        _LOG.info(
            "%s: best validation NDCG@10 %.4f at epoch %d of %d, %.0f s of training",
            name, progress.best, progress.best_epoch, progress.epoch, progress.seconds,
        )  # fmt: skip


def history_buckets(history_length: int) -> tuple[int, ...]:
    """Lengths a batch of histories is padded to: powers of two from 8 on, and the longest."""
    powers = []
    bucket = 8
    while bucket < history_length:
        powers.append(bucket)
        bucket *= 2
    return (*powers, history_length)
