"""What the data says to the trainer: its prefixes are found on any command line, and its vocabulary is the model's."""

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch.argv import flag_values, named_prefixes, whole_number
from meap_megatron.launch.data_flags import padded_rows


def test_flags_are_read_in_both_spellings() -> None:
    argv = ["--a", "1", "2", "--b=3", "--c", "--b", "4"]
    assert (flag_values(argv, "--a"), flag_values(argv, "--b"), flag_values(argv, "--c")) == (
        ["1", "2"],
        ["4"],  # as Megatron's parser: the last counts
        [],
    )


def test_the_weights_of_a_blend_are_no_prefixes() -> None:
    assert named_prefixes(["--data-path", "0.3", "one", "7", "two", "--valid-data-path", "three"]) == [
        "one",
        "two",
        "three",
    ]


@pytest.mark.parametrize(
    ("size", "multiple", "tensor_parallel", "rows"),
    [(32001, 64, 1, 32064), (32001, 64, 2, 32064), (32001, 64, 64, 32064), (4097, 64, 3, 4224), (128, 128, 1, 128)],
)
def test_the_model_has_the_same_rows_on_every_layout_that_divides_them(
    size: int, multiple: int, tensor_parallel: int, rows: int
) -> None:
    assert padded_rows(size, multiple=multiple, tensor_parallel=tensor_parallel) == rows


@pytest.mark.parametrize("word", ["abc", "0", "-2", "1.5"])
def test_a_count_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="must be a whole number of at least 1"):
        whole_number(["--make-vocab-size-divisible-by", word], "--make-vocab-size-divisible-by", default=128)
