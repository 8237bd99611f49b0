"""The data of `meap preprocess sft`, checked and opened: `PREFIX.bin/.idx` and, byte for token, `PREFIX.roles.bin/.idx`."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meap_megatron import _C
from meap_megatron.errors import UserError
from meap_megatron.indexed.idx_header import read_header
from meap_megatron.indexed.pair import IndexedReader, open_pair
from meap_megatron.indexed.sidecar import Sidecar, check_prefix, idx_path, roles_prefix

MAX_CONVERSATIONS = 2**30
"""An item is 4 * conversation + kind in 32 bits."""


class Arrays(Protocol):
    """One array per conversation."""

    def __len__(self) -> int:
        """Return the number of conversations."""

    def __getitem__(self, index: int) -> NDArray:
        """Return the array of one conversation."""


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """Token ids and roles, conversation by conversation."""

    ids: Arrays
    roles: Arrays

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class SFTData(Conversations):
    """The conversations of one prefix, through memory maps."""

    prefix: str
    sidecar: Sidecar
    ids: IndexedReader
    roles: IndexedReader

    @cached_property
    def native(self) -> _C.SFTSource:
        """The same arrays for the C++ functions; nothing is copied."""
        ids, roles = self.ids, self.roles
        return _C.SFTSource(ids.tokens, ids.pointers, roles.tokens, roles.pointers, ids.lengths)

    def __reduce__(self) -> tuple:
        """Travel to another process as the prefix: NumPy would send the whole content of the maps."""
        return open_sft, (self.prefix,)


def check_sft(prefix: str) -> Sidecar:
    """Check cheaply that a prefix holds complete fine-tuning data, and return its sidecar.

    Raises:
        UserError: it is of another kind, or a file is missing or has another size; the message names the file.
    """
    sidecar = check_prefix(prefix)
    if sidecar.kind != "sft":
        raise UserError(
            f"{prefix} holds {sidecar.kind!r} data; fine-tuning reads data of 'meap preprocess sft'",
            fix="make it with `meap preprocess sft`",
        )
    header, roles = read_header(idx_path(prefix)), read_header(idx_path(roles_prefix(prefix)))
    if roles.dtype != "uint8" or roles.num_sequences != header.num_sequences:
        raise UserError(
            f"{idx_path(roles_prefix(prefix))} holds {roles.num_sequences:,} sequences of {roles.dtype}, "
            f"{idx_path(prefix)} has {header.num_sequences:,}: the roles are of other data",
            fix="make the data again",
        )
    if header.num_sequences > MAX_CONVERSATIONS:
        raise UserError(f"{prefix} has {header.num_sequences:,} conversations; {MAX_CONVERSATIONS:,} are possible")
    return sidecar


def open_sft(prefix: str) -> SFTData:
    """Check a prefix and open it.

    Raises:
        UserError: see `check_sft`; or ids and roles differ in the length of a conversation.
    """
    sidecar = check_sft(prefix)
    data = SFTData(prefix=prefix, sidecar=sidecar, ids=open_pair(prefix), roles=open_pair(roles_prefix(prefix)))
    if not np.array_equal(data.ids.lengths, data.roles.lengths):
        first = int(np.flatnonzero(data.ids.lengths != data.roles.lengths)[0])
        raise UserError(
            f"conversation {first} of {prefix} has {data.ids.lengths[first]} tokens and {data.roles.lengths[first]} "
            "roles: the two files are not of one run",
            fix="make the data again",
        )
    return data


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
            fix=f"raise seq_length, make the data again with --max-length {sequence_length + 1}, or leave them out with "
            "meap_sft_over_long=drop",
        )
