"""Where `dataloader_type=external`, a loader that is not Megatron's, cannot take the place of Megatron's."""

import importlib.util
from typing import Any

from meap_megatron.errors import UserError

REFUSED = ("full_validation", "multiple_validation_sets", "hybrid_context_parallel", "phase_transition_iterations")
"""Settings under which Megatron's loader reads in another order."""


def check(args: Any) -> None:
    """Refuse an external loader that is not installed, or that would read in another order than Megatron's."""
    for name in REFUSED:
        if getattr(args, name):
            raise UserError(
                f"dataloader_type=external reads samples in the order of dataloader_type=single, which {name} changes",
                fix="leave one of them out",
            )
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        raise UserError(
            "dataloader_type=external reads through NVIDIA DALI, which is not installed",
            fix="pip install nvidia-dali-cuda130 (600 MB), or leave dataloader_type out",
        )
