from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.artifact import CODE_WRITER
from models.item_encoder import CodeWriterGraph, ItemEncoder, ItemGraph
from models.network import Context, TemporalGenerator
from tests.tiny import SEMANTIC_WIDTH, tiny_package
from training.code_writer import CodeWriter, export_code_writer, fit_code_writer
from training.errors import ExportError
from training.item_encoder import ItemEncoderPart, export_item_encoder

LEVELS, TOKENS, WIDTH = 3, 8, 16


@pytest.fixture(scope="module")
def part() -> ItemEncoderPart:
    found = tiny_package().item_encoder
    assert found is not None
    return found


@pytest.fixture(scope="module")
def integrated(part: ItemEncoderPart) -> NDArray[np.float32]:
    return part.network.encode(part.semantic).integrated


@pytest.fixture(scope="module")
def writer(part: ItemEncoderPart, integrated: NDArray[np.float32]) -> CodeWriter:
    """Fitted on 32 items with random vectors, codes and user states."""
    package = tiny_package()
    assert isinstance(package.generator, TemporalGenerator)
    return fit_code_writer(
        package.generator,
        torch.from_numpy(integrated),
        torch.from_numpy(package.item_output[:32]),
        torch.from_numpy(package.codes.tokens[:32]).long(),
        torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(0)),
        part.codebooks[0],
    )


def test_items_that_all_have_one_text_can_be_fitted(part: ItemEncoderPart, integrated: NDArray[np.float32]) -> None:
    package = tiny_package()
    assert isinstance(package.generator, TemporalGenerator)
    same = torch.from_numpy(integrated[:1]).expand(32, -1)
    for count in (1, 32):
        vectors, codes = torch.from_numpy(package.item_output[:count]), torch.from_numpy(package.codes.tokens[:count])
        states = torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(0))
        fitted = fit_code_writer(package.generator, same[:count], vectors, codes.long(), states, part.codebooks[0])
        assert np.isfinite(fitted.ceiling)


def log_probability(writer: CodeWriter, users: Tensor, codes: Tensor) -> Tensor:
    """users [M, D], codes [M, C, L] → [M, C], one whole code at a time."""
    flat = codes.flatten(0, 1)
    logits, _ = writer.generator.teacher_forced(Context(users.repeat_interleave(codes.shape[1], dim=0)), flat)
    parts = [F.log_softmax(part, dim=1).gather(1, flat[:, n, None]) for n, part in enumerate(logits)]
    return torch.cat(parts, dim=1).sum(dim=1).reshape(codes.shape[:2])


def test_listed_codes_are_as_probable_as_the_generator_says(
    writer: CodeWriter, integrated: NDArray[np.float32]
) -> None:
    rows = torch.from_numpy(integrated)
    with torch.no_grad():
        codes, scores = writer(rows)
        wanted = log_probability(writer, writer.wish(rows), codes)
    allowed = scores > -1e3
    assert codes.shape == (32, 64, LEVELS)
    assert allowed.any(dim=1).all()
    torch.testing.assert_close(scores[allowed], wanted[allowed], atol=1e-4, rtol=0)
    assert (wanted[allowed] <= writer.ceiling + 1e-4).all()
    assert (scores.diff(dim=1) <= 0).all()


def test_no_listed_code_comes_twice_and_all_begin_with_the_nearest_token(
    writer: CodeWriter, part: ItemEncoderPart, integrated: NDArray[np.float32]
) -> None:
    with torch.no_grad():
        codes = writer(torch.from_numpy(integrated))[0].numpy()
    nearest = np.square(integrated[:, None] - part.codebooks[0]).sum(axis=2).argmin(axis=1)
    assert (codes[:, :, 0] == nearest[:, None]).all()
    assert all(len(np.unique(row, axis=0)) == 64 for row in codes)


def test_the_best_code_is_the_best_of_all_below_its_first_token(
    writer: CodeWriter, integrated: NDArray[np.float32]
) -> None:
    """With 8 tokens a level the beam of 32 holds every prefix, so nothing can be missed."""
    rows = torch.from_numpy(integrated[:4])
    deeper = torch.cartesian_prod(torch.arange(TOKENS), torch.arange(TOKENS))
    with torch.no_grad():
        first = writer.first_token(rows)
        every = torch.cat([first[:, None, None].expand(-1, 64, 1), deeper.expand(4, -1, -1)], dim=2)
        known = log_probability(writer, writer.wish(rows), every)
        best = torch.where(known > writer.ceiling, -torch.inf, known).max(dim=1).values
        torch.testing.assert_close(writer(rows)[1][:, 0], best, atol=1e-4, rtol=0)


def test_the_ceiling_lies_among_known_items(writer: CodeWriter, integrated: NDArray[np.float32]) -> None:
    codes = torch.from_numpy(tiny_package().codes.tokens[:32]).long()
    with torch.no_grad():
        known = writer.known(torch.from_numpy(integrated), codes)
    assert (known > writer.ceiling).sum() == 2  # of 32


def test_an_encoder_with_a_writer_proposes_what_it_lists_and_then_the_nearest(
    writer: CodeWriter, part: ItemEncoderPart, integrated: NDArray[np.float32], tmp_path: Path
) -> None:
    export_code_writer(writer, integrated, tmp_path)
    export_item_encoder(part.network, part.semantic, tmp_path)
    encoder = ItemEncoder(
        ItemGraph(tmp_path / "item_encoder.onnx"),
        SEMANTIC_WIDTH,
        part.codebooks,
        part.token_input,
        CodeWriterGraph(tmp_path / CODE_WRITER),
    )
    with torch.no_grad():
        codes, scores = writer(torch.from_numpy(integrated))
    listed, allowed = codes.numpy(), int((scores[0] > -1e3).sum())
    alone = encoder.propose(integrated[:1], lambda asked: np.zeros(len(asked), dtype=bool))
    assert alone[0].tolist() == listed[0, 0].tolist()
    # 100 like items: 64 codes are listed, the others lie below other first tokens.
    given = encoder.propose(np.repeat(integrated[:1], 100, axis=0), lambda asked: np.zeros(len(asked), dtype=bool))
    assert len(np.unique(given, axis=0)) == 100
    assert given[:allowed].tolist() == listed[0, :allowed].tolist()
    assert set(map(tuple, given[:64].tolist())) == set(map(tuple, listed[0].tolist()))


def test_a_graph_of_another_writer_is_refused(
    writer: CodeWriter, integrated: NDArray[np.float32], tmp_path: Path
) -> None:
    class Drifting(CodeWriter):
        calls = 0

        def forward(self, integrated: Tensor) -> tuple[Tensor, Tensor]:
            codes, scores = super().forward(integrated)
            Drifting.calls += 1
            return codes, scores + 0.01 * Drifting.calls

    other = Drifting(writer.generator, writer.vector, writer.states, writer.centroids, writer.ceiling)
    with pytest.raises(ExportError, match="differs from torch"):
        export_code_writer(other.eval(), integrated, tmp_path)
