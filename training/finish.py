"""From a trained run to its artifact: what new items need, the tables, the proof, the test metrics."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.artifact import Artifact
from models.graph import Inputs
from models.prefix_output import PrefixOutput

from .evaluate import TEST_SET, Metrics, compare, measured_on, prorec_metrics, rank_by_popularity, rank_by_scores
from .export import GraphSearch
from .generator import GeneratorModel
from .interactions import Holdout
from .item_encoder import ItemEncoderPart, best_gain, fit_item_encoder
from .item_gain import Events
from .package import Evaluate, Package, write_artifact

if TYPE_CHECKING:
    from .pipeline import Run

_PROOF_HISTORIES = 64
_PROOF_ITEMS = 256
_SHOWN = 20  # attributes that cannot be filtered by

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """What validation chose in a finished run, and what was measured of it: all that a refit takes over.

    version         of the run's artifact
    epochs          stage → epochs after which its weights were best
    rescore_weight  of item scores
    item_gain       of the item encoder
    metrics         method → metric → value
    metrics_of      what they were measured on; None: the test set, all users
    """

    version: str
    epochs: dict[str, int]
    rescore_weight: float
    item_gain: float
    metrics: Metrics
    metrics_of: str | None


class Finish:
    """Everything between the last training step and the artifact."""

    def __init__(self, run: "Run") -> None:
        self.run = run
        self.model, self.task = run.stage2()
        self.counts = run.split.train.counts(run.item_count)
        self.encoder, self.tables = run.item_encoder(), self.task.finished
        self.weight = run.chosen.rescore_weight if run.chosen else self.task.best_weight(self.tables)

    def write(self, measure: Evaluate | None = None) -> Artifact:
        """The artifact, with what `measure` finds through its graphs in its manifest."""
        _LOG.info("export: graphs for beam widths %s, proved on real histories", list(self.run.config.beam_widths))
        artifact = write_artifact(self.run.out, self._package(), measure)
        refused = artifact.attributes.refused
        for name, reason in list(refused.items())[:_SHOWN]:
            _LOG.info("filters cannot compare %r: it %s", name, reason)
        if len(refused) > _SHOWN:
            _LOG.info("nor %d attributes more", len(refused) - _SHOWN)
        return artifact

    def metrics(self, searches: dict[int, GraphSearch]) -> Metrics:
        """PRORec, popularity and, where it was trained, SASRec on held-out events; of a refit, those of its run."""
        run = self.run
        if run.chosen:
            return run.chosen.metrics
        holdout, _ = self._measured_on()
        metrics = rank_by_popularity(holdout, self.counts).metrics("popularity")
        search = searches[run.config.default_beam_width]
        of_prorec, guided = prorec_metrics(holdout, search, self.task.trie, self.weight)
        baseline = run.sasrec()
        if baseline is None:
            return metrics | of_prorec
        sasrec = rank_by_scores(holdout, baseline[1].rank_scores())
        versus = {"PRORec, guided − SASRec": compare(guided, sasrec)}
        return metrics | sasrec.metrics("SASRec") | of_prorec | versus

    def _measured_on(self) -> tuple[Holdout, str]:
        return measured_on(self.run.split, self.run.config.measured_users, test=self.run.test)

    def _metrics_of(self) -> str | None:
        """As the manifest says it."""
        if self.run.chosen:
            return self.run.chosen.metrics_of
        name = self._measured_on()[1]
        return None if name == TEST_SET else name

    def _package(self) -> Package:
        run = self.run
        data, config, valid = run.split.interactions, run.config, run.split.valid
        return Package(
            generator=self.model.generator,
            codes=run.codes(),
            item_ids=data.item_ids,
            metadata=data.items,
            item_input=self.tables["item_input"],
            item_output=self.tables["item_output"],
            prefix_output=PrefixOutput.of(self.tables),
            popularity=np.argsort(-self.counts, kind="stable").astype(np.int32),
            histories=[valid.history(row) for row in range(min(_PROOF_HISTORIES, len(valid)))],
            beam_widths=config.beam_widths,
            default_beam_width=config.default_beam_width,
            history_buckets=history_buckets(config.model.history_length),
            rescore_weight=self.weight,
            dataset=dataset_name(run.data),
            training_fingerprint=run.split.fingerprint(),
            metrics_of=self._metrics_of(),
            refitted_from=run.chosen.version if run.chosen else None,
            item_encoder=self.encoder,
            text_encoder=run.text_encoder(),
        )


def item_encoder_of(run: "Run", model: GeneratorModel) -> ItemEncoderPart:
    """Fitted on what the items that were trained have become."""
    stage1, vectors = run.stage1()[0], model.item.detach()
    warm = torch.from_numpy(run.split.train.trained(run.item_count))
    if run.chosen:
        gain = run.chosen.item_gain
    else:
        gain = best_gain(stage1, vectors, warm, Events.of(run.split.valid, run.item_count, model.user_states))
    network = fit_item_encoder(
        stage1,
        vectors,
        warm,
        gain,
        run.standardisation(),
        model.project if model.temporal else None,
        run.config.integrated,
    )
    token_input = model.token_input.detach().numpy().copy() if model.temporal else None
    return ItemEncoderPart(network, run.codebooks(), token_input, run.raw_semantic()[:_PROOF_ITEMS])


def finished_tables(run: "Run", model: GeneratorModel, encoder: ItemEncoderPart) -> Inputs:
    """What items are: learned, or where training learned nothing about them, from their text."""
    tables = model.tables()
    cold = np.flatnonzero(~run.split.train.trained(run.item_count))
    if len(cold):
        encoded = encoder.network.encode(run.raw_semantic()[cold])
        tables["item_output"][cold] = encoded.item_output
        if encoder.token_input is not None:
            levels = np.arange(run.config.model.code_length)
            parts = encoder.token_input[levels, run.codes().tokens[cold]]
            tables["item_input"][cold] = encoded.item_input + parts.sum(axis=1)
    return tables


def dataset_name(folder: Path) -> str:
    """As a manifest can hold it: names of folders may be bytes that are no text."""
    return os.fsencode(folder.resolve().name).decode(errors="replace")


def history_buckets(history_length: int) -> tuple[int, ...]:
    """Lengths a batch of histories is padded to: powers of two from 8 on, and the longest."""
    powers = []
    bucket = 8
    while bucket < history_length:
        powers.append(bucket)
        bucket *= 2
    return (*powers, history_length)
