"""What the data says to the trainer: its prefixes are found on any command line, and its vocabulary is the model's."""

import pytest

from meap_megatron.checkpoint.convert.spec import padded_rows
from meap_megatron.launch.data_sidecars import named_prefixes
from meap_megatron.launch.named_settings import of_command_line


def test_flags_are_read_in_both_spellings_and_the_last_counts() -> None:
    settings = of_command_line(["--data-path", "a", "b", "--lr=3", "--bf16", "--lr", "4"])
    assert (settings.get("data_path"), settings.get("lr"), settings.get("bf16")) == (["a", "b"], "4", True)
    assert settings.get("save") is None


def test_the_weights_of_a_blend_are_no_prefixes() -> None:
    assert named_prefixes(
        of_command_line(["--data-path", "0.3", "one", "7", "two", "--valid-data-path", "three"])
    ) == [
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
