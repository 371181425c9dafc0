"""What a configuration makes of a network that is trained."""

from typing import Literal

import pytest
from torch import nn

from models.config import ModelConfig
from models.network import build_generator


@pytest.mark.parametrize("kind", ["temporal", "encoder_decoder"])
@pytest.mark.parametrize(("given", "wanted"), [(None, 0.3), (0.1, 0.1), (0.0, 0.0)])
def test_a_decoder_can_have_a_dropout_of_its_own(
    kind: Literal["temporal", "encoder_decoder"], given: float | None, wanted: float
) -> None:
    config = ModelConfig(generator=kind, width=16, heads=2, feed_forward=16, dropout=0.3, decoder_dropout=given)
    generator = build_generator(config)
    layers = {name: part.p for name, part in generator.named_modules() if isinstance(part, nn.Dropout)}
    inside = {rate for name, rate in layers.items() if name.startswith("decoder.")}
    assert inside == {wanted}
    assert {rate for name, rate in layers.items() if not name.startswith("decoder.")} == {0.3}
