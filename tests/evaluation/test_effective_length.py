"""The effective length is the longest length that keeps a score, absolute and relative to the shortest."""

from meap_megatron.evaluation.effective_length import effective_length


def cells(**scores: float | None) -> list[dict[str, object]]:
    return [{"task": "t", "length": int(length[1:]), "mean": mean} for length, mean in scores.items()]


def test_the_longest_length_counts_that_keeps_the_score() -> None:
    found = effective_length(cells(l512=0.96, l1024=0.856, l2048=0.82, l4096=0.7, l8192=None))
    assert found is not None
    assert (found["absolute"], found["relative"]) == (1024, 2048)
    assert (found["base_length"], found["base_score"]) == (512, 0.96)
    assert found["scores"] == {"512": 0.96, "1024": 0.856, "2048": 0.82, "4096": 0.7}


def test_a_length_has_the_mean_over_its_cells() -> None:
    found = effective_length([*cells(l512=1.0, l1024=1.0), *cells(l512=0.0, l1024=None)])
    assert found is not None and found["scores"] == {"512": 0.5, "1024": 1.0}


def test_a_model_that_scores_nothing_has_no_effective_length() -> None:
    found = effective_length(cells(l512=0.0, l1024=0.0))
    assert found is not None and (found["absolute"], found["relative"]) == (None, None)
    assert effective_length(cells(l512=None)) is None
    assert effective_length([{"num_documents": 10, "mean": 1.0}]) is None
