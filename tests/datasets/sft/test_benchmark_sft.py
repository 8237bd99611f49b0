"""benchmarks/sft.py --quick runs, and its last line is the document that scripts read. No speed is judged."""

from tests.benchmarks.scripts import run_quick


def test_the_quick_run_ends_with_its_json_document():
    document = run_quick("sft")
    assert set(document["rows"]) == {
        "ours, packed, with copies",
        "ours, packed, no copies",
        "ours, one segment per row",
        "Megatron SFTDataset, conversation a line",
        "Megatron SFTDataset, packed lines",
        "official rows, batch of 8 padded",
    }
    for row in document["rows"].values():
        assert row["us"] > 0 and 0 < row["non_padding"] <= 1
    padding = {name: row["non_padding"] for name, row in document["rows"].items()}
    assert padding["ours, packed, with copies"] > 0.9 > padding["official rows, batch of 8 padded"]
    assert document["index"]["non_padding"] >= 0.98
    assert {"python", "torch", "numpy", "megatron-core", "cores"} <= set(document["environment"])
