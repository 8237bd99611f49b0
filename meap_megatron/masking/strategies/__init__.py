"""The masking strategies by name. A new one is a file here, a line below, and the same two in csrc/strategies."""

from meap_megatron.errors import UserError
from meap_megatron.masking.strategies.official51 import Official51
from meap_megatron.masking.strategies.random import Random
from meap_megatron.masking.strategies.span import Span
from meap_megatron.masking.strategies.strategy import Draw, Strategy

__all__ = ["STRATEGIES", "Draw", "Strategy", "strategy_named"]

STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in (Random(), Span(), Official51())}


def strategy_named(name: str) -> Strategy:
    """Return a strategy.

    Raises:
        UserError: there is none of this name.
    """
    if name not in STRATEGIES:
        raise UserError(f"strategy is {name!r}; it must be one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
