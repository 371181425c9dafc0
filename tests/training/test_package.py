"""What must not become an artifact."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import tiny_package
from training.errors import ExportError
from training.item_encoder import ItemEncoderPart
from training.package import Package, write_artifact


def with_last(values: Any, last: float) -> Any:
    changed = values.copy()
    changed.flat[-1] = last
    return changed


def diverged(network: nn.Module) -> None:
    with torch.no_grad():
        for weights in network.parameters():
            weights.view(-1)[-1] = torch.nan


def table(name: str, last: float) -> Callable[[Package], Package]:
    return lambda package: replace(package, **{name: with_last(getattr(package, name), last)})


def prefixes(package: Package) -> Package:
    vectors = with_last(package.prefix_output.vectors, np.inf)
    return replace(package, prefix_output=replace(package.prefix_output, vectors=vectors))


def of_encoder(name: str) -> Callable[[Package], Package]:
    def change(package: Package) -> Package:
        part = package.item_encoder
        assert isinstance(part, ItemEncoderPart)
        return replace(package, item_encoder=replace(part, **{name: with_last(getattr(part, name), np.nan)}))

    return change


def generator(package: Package) -> Package:
    diverged(package.generator)
    return package


def encoder(package: Package) -> Package:
    assert package.item_encoder is not None
    diverged(package.item_encoder.network)
    return package


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("item_output", table("item_output", np.nan)),
        ("item_output", table("item_output", -np.inf)),
        ("item_input", table("item_input", np.nan)),
        ("prefix_output", prefixes),
        ("codebooks", of_encoder("codebooks")),
        ("token_input", of_encoder("token_input")),
        ("the generator", generator),
        ("the item encoder", encoder),
    ],
)
def test_a_value_that_is_not_finite_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, change: Callable[[Package], Package]
) -> None:
    with pytest.raises(ExportError, match=f"^{name} holds a value that is not finite"):
        write_artifact(tmp_path / "v1", change(tiny_package()))
    assert list(tmp_path.iterdir()) == []
