"""benchmarks/sample.py --quick runs, and its last line is the document that scripts read. No figure is judged."""

from tests.benchmarks.scripts import run_quick


def test_the_quick_run_ends_with_its_json_document():
    document = run_quick("sample")
    assert (document["sequence_length"], document["num_masked"], document["threads"]) == (4096, 614, 1)
    family = {name for name in document["sample_us"] if name.startswith("MEAPGPTDataset, ")} - {
        "MEAPGPTDataset, nothing masked",
        "MEAPGPTDataset, micro-batch of 8",
    }
    assert len(family) == 7 and document["ratios"]["slowest_of_family_over_masked"] > 0
    assert set(document["sample_us"]) - family == {
        "GPTDataset",
        "GPTDataset + official masking",
        "GPTDataset + numpy choice",
        "GPTDataset + torch randperm",
        "MEAPGPTDataset",
        "MEAPGPTDataset, nothing masked",
        "GPTDataset, micro-batch of 8",
        "MEAPGPTDataset, micro-batch of 8",
        "copy of all bytes that leave",
        "copy of the bytes written anew",
        "copy of all bytes of a batch of 8",
    }
    assert set(document["positions_us"]) == {
        "ours",
        "official random.sample",
        "numpy choice",
        "torch randperm",
    }
    assert all(time > 0 for time in [*document["sample_us"].values(), *document["positions_us"].values()])
    assert {"gpt_over_ours_4096", "gpt_over_ours_65536", "official_over_gpt", "official_choice_over_ours"} <= set(
        document["ratios"]
    )
    assert {"python", "torch", "numpy", "megatron-core", "cores"} <= set(document["environment"])
