"""Going on from a checkpoint with another learning rate.

Megatron 0.19 finds the parameter groups of a checkpoint by their learning rate and weight decay among other things, so that
a run with another one fails with a KeyError or "Could not find parameter group", also with the setting that is for that,
`override_opt_param_scheduler`. Before Megatron looks, the values of the settings are put into the groups that were saved;
without the override the run is refused, with both values.
"""

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from meap_megatron.errors import UserError

FOLLOWING = ("max_lr", "min_lr", "start_wd", "end_wd")
"""Values of a group that the schedule of the settings decides."""
SETTINGS = {"max_lr": "lr", "min_lr": "min_lr", "start_wd": "weight_decay", "end_wd": "weight_decay"}
OVERRIDE = (
    "give the settings of the checkpoint, or override_opt_param_scheduler=true to continue with the new learning-rate "
    "schedule"
)


def follow(current: list[dict[str, Any]], saved: list[dict[str, Any]], *, overrides: bool) -> None:
    """Put the schedule of the current groups into the saved ones, in place.

    Args:
        overrides: the settings go before the checkpoint.

    Raises:
        UserError: they differ, and the settings do not go before.
    """
    from megatron.core.optimizer.optimizer import param_group_identifier_keys

    fixed = [key for key in param_group_identifier_keys if key not in FOLLOWING]

    def kind(group: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(group.get(key, group.get(f"pre_{key}")) for key in fixed)

    there: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for group in saved:
        there[kind(group)].append(group)
    for group in current:
        matching = there[kind(group)]
        if not matching:
            return  # another optimizer: Megatron says so
        other = next((one for one in matching if same(one, group)), matching[0])
        if not overrides and not same(other, group):
            raise UserError(difference(other, group))
        matching.remove(other)
        for key in FOLLOWING:
            if key in group:
                other[key] = group[key]


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Tell whether two groups have one schedule."""
    return all(first.get(key) == second.get(key) for key in FOLLOWING)


def difference(saved: dict[str, Any], current: dict[str, Any]) -> str:
    """Return what to say of a schedule that is not the one of the checkpoint."""
    differing = {
        SETTINGS[key]: f"{SETTINGS[key]}={current.get(key)} ({saved.get(key)} in the checkpoint)"
        for key in FOLLOWING
        if saved.get(key) != current.get(key)
    }
    return f"{', '.join(differing.values())}: {OVERRIDE}"


def overriding() -> bool:
    """Tell whether the settings of the run go before its checkpoint's."""
    from megatron.training import get_args

    return bool(getattr(get_args(), "override_opt_param_scheduler", False))


def following(reorder: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `MegatronOptimizer._filter_and_reorder_param_groups`: find groups whatever their schedule."""

    @functools.wraps(reorder)
    def reorder_groups(current_groups: list[dict[str, Any]], state_dict_groups: list[dict[str, Any]]) -> Any:
        follow(current_groups, state_dict_groups, overrides=overriding())
        return reorder(current_groups, state_dict_groups)

    return staticmethod(reorder_groups)


def following_sharded(load_state_dict: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Wrap `DistributedOptimizer.load_state_dict` in the same way."""

    @functools.wraps(load_state_dict)
    def load(optimizer: Any, state: Any) -> None:
        if "optimizer" in state and "param_groups" in state["optimizer"]:
            groups = optimizer.optimizer.param_groups
            follow(groups, state["optimizer"]["param_groups"], overrides=overriding())
        load_state_dict(optimizer, state)

    return load
