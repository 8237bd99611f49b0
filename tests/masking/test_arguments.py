"""Every wrong argument is refused with a message that names the argument; the package needs neither torch nor Megatron."""

import subprocess
import sys

import numpy as np
import pytest

from meap_megatron import masking
from meap_megatron.errors import UserError
from meap_megatron.masking import reference

GOOD = {"seed": 1, "dataset_key": 2, "sample_index": 3, "length": 16, "ratio": 0.25}
BAD = [
    ({"ratio": -0.1}, "ratio is -0.1; it must be in"),
    ({"ratio": 1.0}, "ratio is 1.0; it must be in"),
    ({"ratio": float("nan")}, "ratio is nan"),
    ({"length": 0}, "length is 0; it must be in 2"),
    ({"length": 1}, "length is 1; it must be in 2"),
    ({"length": -5}, "length is -5"),
    ({"length": 2**31}, "length is 2147483648"),
    ({"seed": -1}, "seed is -1; it must be in"),
    ({"seed": 2**64}, "seed is 18446744073709551616"),
    ({"dataset_key": -1}, "dataset_key is -1"),
    ({"dataset_key": 2**64}, "dataset_key is 18446744073709551616"),
    ({"sample_index": -1}, "sample_index is -1"),
    ({"sample_index": 2**63}, "sample_index is 9223372036854775808"),
    ({"strategy": "spans"}, "strategy is 'spans'; it must be one of random, span, official51"),
    ({"strategy": "span", "span_length": 0}, "span_length is 0"),
    ({"strategy": "span", "span_length": 16}, "span_length is 16, longer than the sample: 15 eligible"),
    ({"strategy": "official51"}, "step is None"),
    ({"strategy": "official51", "step": -1}, "step is -1"),
    ({"strategy": "official51", "step": 0, "eligible": np.array([1])}, "eligible must be None"),
    ({"eligible": np.array([3, 2])}, "eligible is not sorted"),
    ({"eligible": np.array([2, 2])}, "eligible is not sorted"),
    ({"eligible": np.array([-1, 2])}, "eligible spans -1..2"),
    ({"eligible": np.array([1, 16])}, "eligible spans 1..16"),
    ({"eligible": np.array([1, 3], dtype=np.int32)}, r"eligible is int32\[2\]"),
]


@pytest.mark.parametrize("module", [masking, reference], ids=["cpp", "reference"])
@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_a_wrong_argument_is_named(module, wrong, message):
    with pytest.raises(UserError, match=message):
        module.mask_positions(**GOOD | wrong)


def test_the_count_is_that_of_the_official_code():
    table = [(4096, 0.05, 204), (4096, 0.10, 409), (4096, 0.15, 614), (4096, 0.20, 819), (10, 0.01, 1), (10, 0.0, 0)]
    for length, ratio, expected in table:
        assert masking.num_masked(length=length, ratio=ratio) == expected
        case = GOOD | {"length": length, "ratio": ratio}
        for strategy in ({"strategy": "random"}, {"strategy": "span", "span_length": 3}):
            positions = masking.mask_positions(**case | strategy)
            assert positions.dtype == np.int64
            assert positions.size == expected
            assert (np.diff(positions) > 0).all()
            assert expected == 0 or (positions[0] >= 0 and positions[-1] <= length - 2)


def test_nothing_is_masked_where_nothing_may_be():
    empty = np.array([], dtype=np.int64)
    for strategy in ("random", "span"):
        assert masking.mask_positions(**GOOD, eligible=empty, strategy=strategy, span_length=5).size == 0


def test_all_positions_as_eligible_change_nothing():
    everything = np.arange(15)
    assert np.array_equal(masking.mask_positions(**GOOD), masking.mask_positions(**GOOD, eligible=everything))


def test_masking_imports_without_torch_and_megatron():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['megatron'] = None\n"
        "from meap_megatron.masking import mask_positions\n"
        "import meap_megatron.config, meap_megatron.masking.reference\n"
        "print(mask_positions(seed=1, dataset_key=2, sample_index=3, length=16, ratio=0.25).size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "4", done.stderr
