"""Do the conversations fit into the rows? Asked before Megatron is imported, and again where rows are made."""

from numpy.typing import NDArray

from meap_megatron.errors import UserError


def check_lengths(lengths: NDArray, *, prefix: str, over_long: str, sequence_length: int) -> None:
    """Check that every conversation fits into a row, unless the settings drop those that do not.

    Args:
        lengths: int32[conversations], tokens of each.
        over_long: "error" or "drop".
        sequence_length: positions of a row, which holds one token more: the label of the last position.

    Raises:
        UserError: some do not fit.
    """
    num_too_long = int((lengths > sequence_length + 1).sum())
    if num_too_long and over_long == "error":
        raise UserError(
            f"{num_too_long:,} of the {len(lengths):,} conversations of {prefix} have more than the {sequence_length + 1:,} "
            f"tokens that fit into a row of seq_length={sequence_length} (the longest has {int(lengths.max()):,})",
            fix=f"raise "
            f"seq_length, make the data again with --max-length {sequence_length + 1}, or leave them out with "
            "meap_sft_over_long=drop",
        )
