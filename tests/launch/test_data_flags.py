"""What the data says to the trainer: its prefixes are found on any command line, and its vocabulary is the model's."""

import sys
from pathlib import Path

import pytest

from meap_megatron.checkpoint.convert.spec import padded_rows
from meap_megatron.launch.data_flags import data_flags
from meap_megatron.launch.data_sidecars import named_prefixes
from meap_megatron.launch.named_settings import of_command_line
from tests.support.conversations import docstring_rows, write_chat_dataset


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


@pytest.mark.parametrize("corruption", ["mask", "random"])
def test_epochs_are_counted_in_rows_before_megatron_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corruption: str
) -> None:
    write_chat_dataset(tmp_path, docstring_rows(40), max_length=225)
    monkeypatch.setitem(sys.modules, "megatron.training.utils", None)  # whoever imports it fails
    words = "--meap-sft --meap-sft-no-pack --meap-sft-min-answer=100000 --meap-mask-ratio=0.1 --meap-epochs=1.5"
    argv = [f"--data-path={tmp_path / 'data'}", *words.split(), "--split=50,50,0"]
    argv += ["--seq-length=256", "--global-batch-size=3"]
    # 20 conversations, none with an answer that is long enough for a copy: 30 rows.
    assert data_flags([*argv, f"--meap-corruption={corruption}"])[-1] == "--train-iters=10"
