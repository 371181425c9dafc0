"""What a configuration makes of a network that is trained."""

from typing import Literal

import pytest
import torch
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


@pytest.mark.parametrize("gate_width", [None, 24])
def test_without_correction_the_user_state_alone_decides(gate_width: int | None) -> None:
    torch.manual_seed(0)
    generator = build_generator(ModelConfig(width=16, heads=2, feed_forward=16, gate_width=gate_width, dropout=0.0))
    states, user_state = torch.randn(3, 5, 16), torch.randn(3, 16)
    alone = (user_state @ generator.token_output[1].T)[:, None].expand(-1, 5, -1)
    assert not torch.allclose(generator.logits(1, states, user_state), alone)
    generator.without_correction()
    assert torch.allclose(generator.logits(1, states, user_state), alone, atol=1e-6)


def test_a_gate_makes_a_state_mean_another_thing_to_every_user() -> None:
    """Without one, what a decoder's state adds to logits is the same for all."""
    states, users = torch.randn(1, 2, 16), torch.randn(2, 1, 16)
    for gate_width, same in ((None, True), (24, False)):
        torch.manual_seed(0)
        generator = build_generator(ModelConfig(width=16, heads=2, feed_forward=16, gate_width=gate_width, dropout=0.0))
        added = [torch.diff(generator.logits(1, states, user), dim=1) for user in users]
        assert torch.allclose(added[0], added[1], atol=1e-5) == same


def test_levels_beyond_those_that_have_a_gate_do_without() -> None:
    states, user_state = torch.randn(3, 5, 16), torch.randn(3, 16)
    sizes = ModelConfig(width=16, heads=2, feed_forward=16, gate_width=24, gate_levels=2, dropout=0.0)
    generator = build_generator(sizes).eval()
    before = [generator.logits(level, states, user_state) for level in range(sizes.code_length)]
    torch.nn.init.zeros_(generator.gate.down.weight)  # type: ignore[union-attr]
    after = [generator.logits(level, states, user_state) for level in range(sizes.code_length)]
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False, False, True, True]
