"""The network as a search runs it equals the network as it is trained."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from models.network import Cache, Context, Generator
from models.search_network import Open, OpenWritten, SearchNetwork, Written

from .networks import LEVELS, TOKENS, WIDTH, network

ROWS, BEAMS, ITEMS = 3, 5, 20


def inputs() -> tuple[Tensor, dict[str, Tensor]]:
    """Histories of every kind, an empty one too, and what items are."""
    rng = np.random.default_rng(0)
    history = torch.from_numpy(rng.integers(0, ITEMS, (ROWS, 5)).astype(np.int32))
    history[0] = -1
    history[1, :3] = -1
    codes = rng.integers(0, TOKENS, (ITEMS, LEVELS)).astype(np.int32)
    return history, {"item_input": torch.randn(ITEMS, WIDTH), "item_code": torch.from_numpy(codes)}


def plain_step(
    generator: Generator, level: int, tokens: Tensor | None, parent: Tensor | None, context: Context, cache: Cache
) -> tuple[Tensor, Cache]:
    """One step of the network in training's shape, its cache reordered to `parent`."""
    if parent is not None:
        before = cache[0][0].shape[0] // ROWS
        flat = (torch.arange(ROWS)[:, None] * before + parent).flatten()
        cache = tuple((keys[flat], values[flat]) for keys, values in cache)
    return generator.step(level, tokens, context, cache)


@pytest.mark.parametrize(
    ("table_tokens", "gate_width", "gate_levels"),
    [(TOKENS, None, None), (TOKENS - 1, None, None), (TOKENS, 24, None), (TOKENS, 24, 2)],
)
@pytest.mark.parametrize("kind", ["temporal", "encoder_decoder"])
def test_every_level_has_the_logits_of_the_trained_network(
    kind: Literal["temporal", "encoder_decoder"], table_tokens: int, gate_width: int | None, gate_levels: int | None
) -> None:
    """With tables for the first layer and without, with gates and without, for beams that descend from any other."""
    generator = network(kind, gate_width, gate_levels)
    fast = SearchNetwork(generator, table_tokens=table_tokens)
    assert fast.tabled == (table_tokens == TOKENS)
    history, tables = inputs()
    rng = np.random.default_rng(2)
    with torch.no_grad():
        context, encoded = generator.encode(history, tables), fast.encode(history, tables)
        torch.testing.assert_close(encoded.user_state, context.user_state, atol=1e-4, rtol=1e-4)
        wanted, cache = plain_step(generator, 0, None, None, context, ())
        found, written = fast.start(encoded)
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)
        for level in range(1, LEVELS):
            tokens = torch.from_numpy(rng.integers(0, TOKENS, (ROWS, BEAMS)))
            parent = torch.from_numpy(rng.integers(0, BEAMS if level > 1 else 1, (ROWS, BEAMS)))
            wanted, cache = plain_step(generator, level, tokens, parent, context, cache)
            found, written = fast.step(level, tokens, parent, encoded, written)
            torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)
            assert wanted.std() > 0.1


@pytest.mark.parametrize("kind", ["temporal", "encoder_decoder"])
def test_padding_in_front_of_a_history_changes_nothing(kind: Literal["temporal", "encoder_decoder"]) -> None:
    fast = SearchNetwork(network(kind))
    history, tables = inputs()
    with torch.no_grad():
        short = fast.start(fast.encode(history[1:2, 3:], tables))[0]
        long = fast.start(fast.encode(torch.nn.functional.pad(history[1:2], (2, 0), value=-1), tables))[0]
    torch.testing.assert_close(short, long, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("table_tokens", [TOKENS, TOKENS - 1])
@pytest.mark.parametrize("gate_levels", [None, 2])
@pytest.mark.parametrize("kind", ["temporal", "encoder_decoder"])
def test_open_beams_alone_have_the_logits_they_have_among_all(
    kind: Literal["temporal", "encoder_decoder"], gate_levels: int | None, table_tokens: int
) -> None:
    fast = SearchNetwork(network(kind, 24, gate_levels), table_tokens=table_tokens)
    history, tables = inputs()
    rng = np.random.default_rng(2)
    descend = [torch.zeros(ROWS, BEAMS, dtype=torch.int64)] + [
        torch.from_numpy(rng.integers(0, BEAMS, (ROWS, BEAMS))) for _ in range(2, LEVELS)
    ]
    # Open at the last level are some; at the level before their parents and one more.
    last = torch.tensor([0, 3, 4, 11, 14])
    before = torch.unique(torch.cat([last // BEAMS * BEAMS + descend[-1].flatten()[last], torch.tensor([7])]))
    with torch.no_grad():
        encoded = fast.encode(history, tables)
        written = fast.start(encoded)[1]
        of_open: Written | OpenWritten = written
        for level, parent in enumerate(descend, start=1):
            tokens = torch.from_numpy(rng.integers(0, TOKENS, (ROWS, BEAMS)))
            wanted, written = fast.step(level, tokens, parent, encoded, written)
            if level == 1:
                of_open = written
                continue
            beam = last if level == LEVELS - 1 else before
            place = torch.zeros(ROWS * BEAMS, dtype=torch.int64)
            place[beam] = torch.arange(len(beam))
            row = beam // BEAMS
            some = Open(beam, row, row * BEAMS + parent.flatten()[beam], place)
            found, of_open = fast.step_open(level, tokens, some, encoded, of_open)
            torch.testing.assert_close(found, wanted.flatten(0, 1)[beam], atol=1e-3, rtol=1e-4)
