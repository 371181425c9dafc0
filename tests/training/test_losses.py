import torch

from training.losses import Rows, draw_items, info_nce, item_loss, rows_among, rows_of


def test_the_full_loss_and_its_gradients_are_those_of_the_cross_entropy_over_all_items() -> None:
    torch.manual_seed(0)
    states, table = torch.randn(300, 4, requires_grad=True), torch.randn(70, 4, requires_grad=True)
    targets = torch.randint(70, (300,))
    expected = -torch.log_softmax(states @ table.T, dim=1)[range(300), targets].sum()
    loss = item_loss(states, targets, rows_of(table), len(table), sample=None)
    assert torch.isclose(loss, expected)
    wanted, found = (torch.autograd.grad(3 * one, (states, table)) for one in (expected, loss))
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_in_bfloat16_the_scores_of_all_items_are_computed_in_it_too() -> None:
    torch.manual_seed(0)
    states, table, targets = torch.randn(30, 16), torch.randn(70, 16), torch.randint(70, (30,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = item_loss(states, targets, rows_of(table), len(table), sample=None)
        expected = torch.nn.functional.cross_entropy(states @ table.T, targets, reduction="sum")
    assert torch.equal(loss, expected)


def test_the_sampled_loss_estimates_the_full_one() -> None:
    torch.manual_seed(0)
    states, table = torch.randn(64, 8), 0.5 * torch.randn(5000, 8)
    targets = torch.randint(5000, (64,))
    full = item_loss(states, targets, rows_of(table), len(table), sample=None)
    estimates = torch.stack(
        [item_loss(states, targets, rows_of(table), len(table), torch.randint(5000, (1000,))) for _ in range(10)]
    )
    assert abs(float(estimates.mean() - full)) / 64 < 0.05


def test_up_to_the_limit_all_items_are_compared_with_and_above_it_drawn_ones() -> None:
    device = torch.device("cpu")
    assert draw_items(70, full_up_to=70, sampled=3, device=device) is None
    torch.manual_seed(0)
    sample = draw_items(71, full_up_to=70, sampled=2000, device=device)
    assert sample is not None
    assert sample.unique().tolist() == list(range(71))


def test_vectors_of_named_items_are_those_of_the_table_and_so_are_their_gradients() -> None:
    table = torch.randn(20, 4, requires_grad=True)
    lookups = torch.tensor([[3, 3, 19], [0, 7, 3]]), torch.tensor([7, 19])
    named = torch.cat([lookups[0].flatten(), lookups[1], torch.tensor([11])])

    def looked_up(rows: Rows) -> torch.Tensor:
        return torch.cat([rows(items).flatten() for items in lookups])

    weights = torch.randn(32)
    wanted, found = looked_up(rows_of(table)), looked_up(rows_among(rows_of(table), named))
    assert torch.equal(found, wanted)
    gradients = [torch.autograd.grad((weights * one).sum(), table)[0] for one in (wanted, found)]
    torch.testing.assert_close(*gradients)


def test_alignment_is_low_for_pairs_and_high_for_strangers() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(32, 16)
    assert float(info_nce(vectors, 3 * vectors, 0.1)) < 0.1
    assert float(info_nce(vectors, vectors.roll(1, dims=0), 0.1)) > 3


def test_pieces_of_the_alignment_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(11, 4), torch.randn(11, 4)
    pieces = torch.stack([info_nce(queries, keys, 0.1, piece, 3) for piece in range(3)])
    assert torch.isclose(pieces.sum(), info_nce(queries, keys, 0.1))
