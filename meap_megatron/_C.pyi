from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__version__: str

def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]: ...
def philox_words(
    key: tuple[int, int], first_block: int, stream: int, sample_index: int, num_blocks: int, plain: bool
) -> NDArray[np.uint32]: ...
def bounded_integers(
    key: tuple[int, int], stream: int, sample_index: int, first_range: int, count: int
) -> NDArray[np.uint32]: ...
def choose_positions(
    strategy: str,
    seed: int,
    dataset_key: int,
    sample_index: int,
    num_eligible: int,
    count: int,
    span_length: int,
    step: int,
) -> NDArray[np.int64]: ...

class Corruptor:
    def __init__(self, stage: object) -> None: ...
    def apply(
        self, tokens: NDArray[np.int64], sample_index: int, num_real: int, barred: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...

class GPTSamples[T]:
    def __init__(
        self, *, arrays: object, rules: object, stage: object | None, wrap: Callable[[NDArray], T]
    ) -> None: ...
    def __len__(self) -> int: ...
    def sample(self, index: int, is_batch_padding: bool) -> dict[str, T]: ...
    def batch(self, indices: Sequence[int]) -> dict[str, T]: ...

class SFTSource:
    def __init__(
        self,
        ids: NDArray,
        id_pointers: NDArray[np.int64],
        roles: NDArray[np.uint8],
        role_pointers: NDArray[np.int64],
        lengths: NDArray[np.int32],
    ) -> None: ...
    def find_items(
        self,
        numbers: NDArray[np.int32],
        has_copies: bool,
        is_joined: bool,
        train_original: bool,
        min_answer_tokens: int,
        sequence_length: int,
    ) -> tuple[NDArray[np.uint32], NDArray[np.int32], int, int, int]: ...

class SFTRows:
    def __init__(
        self,
        source: SFTSource,
        config: object,
        sequence_length: int,
        dataset_key: int,
        mark_changes: bool,
        mask_offsets: NDArray[np.int64],
        mask_positions: NDArray[np.int32],
        first_conversation: int,
    ) -> None: ...
    def row(
        self, items: NDArray[np.uint32], epoch: int
    ) -> tuple[
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.float32],
        NDArray[np.int64],
        NDArray[np.int32],
        NDArray[np.int32],
    ]: ...

def sft_pack(
    lengths: NDArray[np.int32], capacity: int, window: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]: ...
