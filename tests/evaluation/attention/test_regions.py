"""Tokens fall into the region of their first character; shares sum to 1; items are many and different."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from meap_megatron.errors import UserError
from meap_megatron.evaluation.attention import regions
from meap_megatron.evaluation.attention.model_pair import ComparedModel
from meap_megatron.evaluation.attention.region_items import PAPER_ITEMS, PAPER_SHARES, REGIONS, Item, templated_items
from meap_megatron.evaluation.attention.region_shares import VARIANTS, encode, query_sets, shares
from tests.evaluation.attention.pairs import write_arm, write_tokenizer

ITEM = Item(name="tiny", before="Up.", answer="Ab cd", after=", efg.", query="question: Q?")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_folder)


def test_parts_are_joined_by_spaces_except_before_a_comma() -> None:
    assert ITEM.joined() == ("Up. Ab cd, efg. question: Q?", (3, 9, 15, 28))
    text, _ = PAPER_ITEMS[0].joined()
    assert "entire country. Designed by Gustave Eiffel, it was completed in 1889 for the World's Fair." in text
    assert text.endswith("photographed monuments. question: Who designed the Eiffel Tower?")


@pytest.mark.parametrize("bos_id", [None, 0])
def test_a_token_belongs_to_the_region_of_its_first_character(tokenizer: Any, bos_id: int | None) -> None:
    for item in (ITEM, *PAPER_ITEMS):
        ids, labels = encode(item, tokenizer, bos_id=bos_id, eos_id=1)
        begin = 0 if bos_id is None else 1
        assert ids[-1] == 1 and labels[-1] == 4 and list(labels) == sorted(labels)
        assert bos_id is None or (ids[0], labels[0]) == (0, 0)
        # The texts of the tokens of a region, put together again, are the region.
        found = [
            tokenizer.decode(
                [i for i, region in zip(ids[begin:-1], labels[begin:-1], strict=True) if region == number]
            )
            for number in range(4)
        ]
        assert [text.strip() for text in found] == [item.before, item.answer, item.after, item.query]
        assert found[1].startswith(" ")  # the space goes with what follows it


def test_a_tokenizer_with_a_coarse_grain_or_without_offsets_is_refused(tokenizer: Any) -> None:
    class Coarse:
        is_fast = True

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            return {"input_ids": [5], "offset_mapping": [(0, len(text))]}

    with pytest.raises(UserError, match="no token begins in region 'answer'"):
        encode(ITEM, Coarse(), bos_id=None, eos_id=1)
    Coarse.is_fast = False
    with pytest.raises(UserError, match="gives no character offsets"):
        encode(ITEM, Coarse(), bos_id=None, eos_id=1)


def test_shares_of_uniform_attention() -> None:
    labels = np.array([0, 0, 0, 1, 2, 3, 3, 4])
    weights = np.tril(np.ones((8, 8))) / np.arange(1, 9)[:, None]
    received = (query_sets(labels) @ weights)[:, None].repeat(2, axis=1)
    found = shares(received, labels)
    assert tuple(found) == VARIANTS
    assert found["sum"] == pytest.approx([3 / 8, 1 / 8, 1 / 8, 2 / 8, 1 / 8])
    assert found["last_layer"] == pytest.approx(found["sum"])
    assert found["mean_per_token"] == pytest.approx([1 / 5] * 5)
    assert found["without_first"] == pytest.approx([2 / 7, 1 / 7, 1 / 7, 2 / 7, 1 / 7])
    # Queries 5 and 6 give 1/6 and 1/7 to each key; the first of them does not see the second, and neither sees EOS.
    mean = (1 / 6 + 1 / 7) / 2
    assert found["query_tokens"] == pytest.approx([3 * mean, mean, mean, mean + 1 / 14, 0])


def test_the_layers_are_averaged_and_the_last_is_the_last() -> None:
    labels = np.array([0, 1, 2, 3, 4])
    received = np.zeros((2, 2, 5))
    received[:, 0, 0] = received[:, 1, 1] = 1
    found = shares(received, labels)
    assert found["sum"] == pytest.approx([0.5, 0.5, 0, 0, 0])
    assert found["last_layer"] == pytest.approx([0, 1, 0, 0, 0])


def test_the_shares_of_a_model_are_those_of_its_eager_attention(tokenizer_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_arm(tmp_path / "model", write_tokenizer(tmp_path / "tokenizer", tokenizer_folder), seed=1)
    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    arm = ComparedModel(
        name="meap",
        folder=folder,
        model=AutoModelForCausalLM.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        add_bos=True,
        info={},
        limit=2048,
    )
    for item in PAPER_ITEMS[:2]:
        found = regions.measure(item, arm, eos_id=1)
        ids, labels = encode(item, arm.tokenizer, bos_id=0, eos_id=1)
        with torch.no_grad():
            weights = torch.stack(eager(torch.from_numpy(ids)[None], output_attentions=True).attentions)
        last = weights.mean(dim=(0, 1, 2))[-1].numpy()
        expected = [last[labels == region].sum() for region in range(len(REGIONS))]
        assert found["sum"] == pytest.approx(expected, abs=1e-5)
        assert all(sum(values) == pytest.approx(1) for values in found.values())
        assert len({round(values[1], 4) for values in found.values()}) == len(VARIANTS)  # five different questions


def test_templated_items_are_many_different_and_repeatable() -> None:
    items = templated_items(500, seed=0)
    assert len({item.joined()[0] for item in items}) == len({item.name for item in items}) == 500
    assert templated_items(500, seed=0) == items
    assert templated_items(20, seed=0) == items[:20]
    assert templated_items(20, seed=1) != items[:20]
    for item in items:
        assert "{" not in item.joined()[0]
        assert item.query.startswith("question: ") and item.query.endswith("?")
        # The fact stands once: nowhere but in the answer, and the question does not give it away.
        fact = set(item.answer.split()) - set((item.before + item.after + item.query).replace(",", "").split())
        assert fact, item
    with pytest.raises(UserError, match="the table makes 1,920"):
        templated_items(1921, seed=0)


def test_the_printed_shares_sum_to_1_where_the_paper_prints_all_of_them() -> None:
    assert PAPER_SHARES.keys() == {item.name for item in PAPER_ITEMS}
    for name in ("table_17", "table_18"):
        for printed in PAPER_SHARES[name].values():
            assert sum(value or 0 for value in printed) == pytest.approx(1, abs=0.0015)
