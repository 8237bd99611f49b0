"""Every script that measures in one process, and the gated steps, run with --quick and end with their document."""

import json
import math
from typing import Any

import pytest

from tests.benchmarks.scripts import FOLDER
from tests.support.runs import python

ARGUMENTS = {
    "index": (),
    "loader": (),
    "preprocess": (),
    "sample": (),
    "sft": (),
    "step": ("--only", "meap", "transformers", "products"),
}


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    """Documents by script; no figure is judged."""
    found = {}
    for name, words in ARGUMENTS.items():
        found[name] = json.loads(python(FOLDER / f"{name}.py", "--quick", *words).splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_last_line_is_what_the_comparison_reads(name: str, documents: dict[str, Any]) -> None:
    document = documents[name]
    assert (document["benchmark"], document["quick"]) == (name, True)
    # So little work may take no memory that can be measured.
    timed = {name: ratio for name, ratio in document["ratios"].items() if not name.endswith("_mib")}
    assert timed and all(math.isfinite(ratio) and ratio > 0 for ratio in timed.values())
    assert {*document.get("not_judged", ()), *document.get("lower_is_better", ())} <= set(document["ratios"])
    assert {"python", "megatron-core", "cores"} <= set(document["environment"])


def test_peers_take_part_in_the_same_run(documents: dict[str, Any]) -> None:
    assert {"GPTDataset", "GPTDataset + official masking", "MEAPGPTDataset, random tokens"} <= set(
        documents["sample"]["sample_us"]
    )
    assert {"official random.sample", "numpy choice", "torch randperm"} < set(documents["sample"]["positions_us"])
    assert {"gpt_over_ours_4096", "gpt_over_ours_65536", "official_choice_over_ours"} < set(
        documents["sample"]["ratios"]
    )
    assert {"torch, 0 workers, GPTDataset", "torch, 4 workers"} < set(documents["loader"]["ms"])
    assert documents["index"]["results"]["idx"].keys() == {"ours", "megatron"}
    names = ("transformers_over_meap", "meap_share_of_rate", "transformers_share_of_rate")
    assert set(documents["step"]["ratios"]) == {f"{name}_quick_32" for name in names}
    for costs in (documents["preprocess"]["real"]["costs"], documents["preprocess"]["generated"]["large"]["costs"]):
        assert len(costs) == 3 and costs["meap preprocess text"]["peak"] > 50e6


def test_packed_rows_are_full_and_padded_batches_are_not(documents: dict[str, Any]) -> None:
    padding = {name: row["non_padding"] for name, row in documents["sft"]["rows"].items()}
    assert padding["ours, packed, with copies"] > 0.9 > padding["official rows, batch of 8 padded"]
    assert padding["Megatron SFTDataset, packed lines"] > 0.9
