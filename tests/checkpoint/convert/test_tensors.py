"""Fused tensors have Megatron's layout and come apart again."""

import torch

from meap_megatron.checkpoint.convert.mask_token import MaskRow
from meap_megatron.checkpoint.convert.tensors import fuse_qkv, resized, split_qkv


def test_query_heads_stand_with_the_key_and_value_head_of_their_group() -> None:
    # Four query heads in two groups, heads of one row: q0 q1 | k0 | v0 | q2 q3 | k1 | v1.
    q, k, v = torch.tensor([[0.0], [1], [2], [3]]), torch.tensor([[10.0], [11]]), torch.tensor([[20.0], [21]])
    assert fuse_qkv(q, k, v, groups=2).flatten().tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_heads_of_several_rows_stay_whole() -> None:
    q, k, v = torch.arange(4), torch.tensor([10, 11]), torch.tensor([20, 21])  # biases, two heads of 2, one group
    assert fuse_qkv(q, k, v, groups=1).tolist() == [0, 1, 2, 3, 10, 11, 20, 21]


def test_splitting_undoes_fusing() -> None:
    torch.manual_seed(0)
    parts = torch.randn(8 * 5, 7), torch.randn(2 * 5, 7), torch.randn(2 * 5, 7)
    back = split_qkv(fuse_qkv(*parts, groups=2), heads=8, groups=2, head_dim=5)
    assert all(torch.equal(a, b) for a, b in zip(parts, back, strict=True))


def test_rows_are_cut_off_or_filled_with_zeros() -> None:
    table = torch.tensor([[1.0, 2], [3, 4]])
    assert resized(table, 1).tolist() == [[1, 2]]
    assert resized(table, 3).tolist() == [[1, 2], [3, 4], [0, 0]]


TABLE = torch.tensor([[1.0, 10], [3, 10], [100, 100], [5, 40]])


def row(kind: str, *, mask_id: int = 2, table: int = 0, seed: int = 1, token_id: int | None = None) -> list[float]:
    mask = MaskRow(mask_id=mask_id, known=4, kind=kind, seed=seed, token_id=token_id)
    return mask.make(lambda a, b: TABLE[a:b], table=table).tolist()


def test_the_mean_leaves_the_row_out_that_it_replaces() -> None:
    assert row("mean") == [3.0, 20.0]
    assert row("mean", mask_id=4) == [109 / 4, 40.0]


def test_a_token_is_copied() -> None:
    assert row("token", token_id=3) == [5.0, 40.0]


def test_random_rows_follow_the_seed_and_differ_between_embedding_and_head() -> None:
    assert row("random") == row("random")
    assert row("random") != row("random", seed=2)
    assert row("random") != row("random", table=1)
    draws = torch.tensor([row("random", seed=s) for s in range(400)])
    assert torch.allclose(draws.mean(0), torch.tensor([3.0, 20.0]), atol=2.5)
