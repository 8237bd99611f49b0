"""Strategy `official51`: the 51 position sets of the official code, by CPython's own generator."""

import random

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError
from meap_megatron.masking.strategies.strategy import Draw, Strategy, StrategySettings


class Official51(Strategy):
    """One set per optimizer step for all samples: `random.seed(50 + step % 51); random.sample(range(length - 1), k)`."""

    name = "official51"
    summary = "the 51 position sets of the official code"
    follows_step = True

    def check_settings(self, config: StrategySettings) -> None:
        """Raise UserError without a batch size, or with anything that the official code has not."""
        if config.global_batch_size is None or config.global_batch_size < 1:
            raise UserError(
                f"global_batch_size is {config.global_batch_size}; strategy 'official51' needs the number of samples per "
                "optimizer step, because its masks follow the step"
            )
        if config.protected_ids:
            raise UserError(
                f"protected_ids is {config.protected_ids}; strategy 'official51' protects no token, as the official "
                "code",
                fix="leave protected_ids empty or use strategy 'random'",
            )
        for name, neutral in (
            ("skip_first", 0),
            ("min_document_tokens", 0),
            ("clean_fraction", 0.0),
            ("corruption", "mask"),
        ):
            if getattr(config, name) != neutral:
                raise UserError(
                    f"{name} is {getattr(config, name)!r}; strategy 'official51' is the official code's, which has no "
                    "such setting",
                    fix="leave it out or use strategy 'random'",
                )
        if config.schedule.constant is None:
            raise UserError(
                f"ratio is {config.ratio!r}; strategy 'official51' has one ratio for all samples",
                fix="give a number or use strategy 'random'",
            )

    def check_sample(
        self, *, span_length: int, num_eligible: int, step: int | None, eligible: NDArray[np.int64] | None
    ) -> None:
        """Raise UserError without a step, or with protected positions."""
        if step is None or step < 0:
            raise UserError(f"step is {step}; strategy 'official51' needs the optimizer step, counted from 0")
        if eligible is not None:
            raise UserError("eligible must be None with strategy 'official51': the official code protects no position")

    def choose(self, draw: Draw) -> NDArray[np.int64]:
        """Return int64[count], ascending."""
        generator = random.Random(50 + draw.step % 51)
        return np.array(sorted(generator.sample(range(draw.num_eligible), draw.count)), dtype=np.int64)
