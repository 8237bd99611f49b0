"""benchmarks/step.py --quick runs the trainer and its peer, and its last line is the document. No figure is judged."""

from tests.benchmarks.scripts import run_quick


def test_the_quick_run_takes_turns_and_ends_with_its_document() -> None:
    document = run_quick("step", "--only", "meap", "transformers", "products")
    (cell,) = document["cells"]
    assert (document["quick"], document["threads"], cell["turns"]) == (True, 1, 3)
    for kind in ("clock", "cpu"):
        assert all(cell[kind]["seconds"][name] > 0 for name in ("meap", "transformers", "products"))
    low, high = sorted(cell["cpu"]["transformers_over_meap"])[::2]
    assert 0 < low <= cell["cpu"]["transformers_over_meap"][0] <= high
    names = ("transformers_over_meap", "meap_share_of_rate", "transformers_share_of_rate")
    assert set(document["ratios"]) == {f"{name}_quick_32" for name in names}
