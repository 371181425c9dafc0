"""On which settings the result of each step depends: runs that agree on them can share it."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from .config import TrainingConfig
from .interactions import Split
from .work_folder import fingerprint

_RECOMMENDER_SIZES = {"width", "heads", "feed_forward", "encoder_layers", "history_length", "dropout"}
_AFTER_TRAINING = {"export_text_encoder", "beam_widths", "sasrec"}


def items_digest(items: Sequence[dict[str, Any]]) -> str:
    """SHA-256 of the items as one JSON list, which would be a string as large as the catalog."""
    digest = hashlib.sha256(b"[")
    for place, item in enumerate(items):
        digest.update(f"{', ' if place else ''}{json.dumps(item)}".encode())
    digest.update(b"]")
    return digest.hexdigest()


class StepSettings:
    """Everything that decides what each step of a run makes, JSON-ready."""

    def __init__(self, config: TrainingConfig, split: Split) -> None:
        self._config = config
        self._split = split
        self.data = fingerprint(split, config.text_encoder)

    def text(self) -> dict[str, Any]:
        """Of the raw text embeddings: they do not depend on anybody's events."""
        name = self._config.text_encoder
        return {"items": self.data if name.endswith(".npy") else self._items, "text_encoder": name}

    @cached_property
    def _items(self) -> str:
        return items_digest(self._split.interactions.items)

    @staticmethod
    def _recommender(config: TrainingConfig) -> dict[str, Any]:
        aligned = {"weight": config.cka_weight, "temperature": config.cka_temperature} if config.cka_weight else None
        drawn = config.sampled_items if config.cka_weight else None
        return {
            "cka": aligned and aligned | {"items": drawn},
            "gate": config.integrated == "gate",
            "softmax": [config.softmax_items, config.sampled_items],
            "model": config.model.model_dump(include=_RECOMMENDER_SIZES),
            "stage": config.stage1.model_dump(),
        } | config.model_dump(include={"seed", "recommender", "precision", "text_encoder", "item_text"})

    def recommender(self, config: TrainingConfig | None = None) -> dict[str, Any]:
        """Of stage I, or of another recommender on the same data."""
        return {"data": self.data} | self._recommender(config or self._config)

    def embeddings(self) -> dict[str, Any]:
        return self.recommender() | {"integrated": self._config.integrated}

    def codes(self) -> dict[str, Any]:
        sizes = self._config.model.model_dump(include={"code_length", "tokens_per_level"})
        return self.embeddings() | sizes | {"quantizer": self._config.quantizer}

    def stage2(self) -> dict[str, Any]:
        """Of stage II, but for its end."""
        return {name: value for name, value in self.decoder().items() if name != "decoder"}

    def decoder(self) -> dict[str, Any]:
        """Of stage II to its end."""
        recipe = {name: value for name, value in self._config.recipe().items() if name not in _AFTER_TRAINING}
        return recipe | {"data": self.data}
