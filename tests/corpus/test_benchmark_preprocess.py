"""benchmarks/preprocess.py --quick runs, and its last line is the document that scripts read. No figure is judged."""

from pathlib import Path

from tests.benchmarks.scripts import run_quick


def test_the_quick_run_ends_with_its_json_document(tmp_path: Path) -> None:
    document = run_quick("preprocess", "--folder", str(tmp_path))
    contestants = {"gigatoken, 64 MiB per call", "gigatoken, one thread, by document", "meap preprocess text"}
    assert set(document["real"]["costs"]) == contestants
    assert document["generated"]["small"]["bytes"] >= 500_000
    assert document["generated"]["large"]["bytes"] >= 1_000_000
    for costs in (document["real"]["costs"], *(part["costs"] for part in document["generated"].values())):
        assert all(cost["wall"] > 0 and cost["cpu"] > 0 for cost in costs.values())
        assert costs["meap preprocess text"]["peak"] > 50e6
    assert set(document["verify"]["seconds"]) == {"read", "read and hash", "meap verify"}
    assert all(ratio > 0 for ratio in document["ratios"].values())
    assert list(tmp_path.iterdir()) == []
