"""A command line before Megatron is imported: completed by defaults, checked by every rule, refused in whole sentences."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import read_sidecar, sidecar_path
from meap_megatron.launch import arguments, blend, rules, splits
from meap_megatron.launch.flags import Flag
from meap_megatron.launch.named_settings import Settings, of_command_line


def complete(
    argv: list[str], settings: Settings | None = None, *, world: int | None, show: Callable[[str], None]
) -> list[str]:
    """Return a command line that Megatron's validation accepts as far as settings alone can tell.

    Args:
        settings: the same as a recipe gave them, for messages with file and line; None: read from `argv`.
        world: processes of the job; None: not known here.

    Raises:
        UserError: everything that is wrong, each with key, value, rule and remedy.
    """
    argv = blend.spelled_out(argv)
    typed = settings is None
    if settings is None:
        settings = of_command_line(argv)
    added = rules.defaults(settings)
    settings = settings.with_defaults(added)
    found = problems(settings, world=world)
    if found:
        refused = joint(found)
        raise refused.rewritten(lambda text: in_flags(text, settings.flags)) if typed else refused
    changed, notes = without_evaluation(settings)
    for note in notes:
        show(note)
    return [*argv, *rules.flags_of(added | changed)]


def problems(settings: Settings, *, world: int | None) -> list[UserError]:
    """Return all that is wrong with the settings, data not opened."""
    found = rules.findings(settings, world=world)
    for check in (splits.check_blend, splits.shares_of, check_flags):
        found += refusal(lambda check=check: check(settings))  # type: ignore[misc]
    return list({str(error): error for error in found}.values())


def check_flags(settings: Settings) -> None:
    """Make the checks of `arguments` on what the parser will make of the settings.

    Raises:
        UserError: see `arguments.check`.
    """
    if not settings.flags or any(rules.of_masked_inputs(settings)):
        return  # what cannot be read is named with its place already
    args = settings.namespace()
    args.transformer_impl = ""  # the device decides it, later
    arguments.check(args)


def refusal(check: Callable[[], object]) -> list[UserError]:
    """Do a check and return what it refuses, [] if nothing."""
    try:
        check()
    except UserError as error:
        return [error]
    return []


def in_flags(text: str, flags: Mapping[str, Flag]) -> str:
    """Return a sentence about settings for someone who typed flags.

    Given  bf16=true and lr_warmup_iters=5 with train_iters
    then   --bf16 and --lr-warmup-iters=5 with --train-iters
    """

    def spelled(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if name not in flags or value == "null" or (value is None and "_" not in name):
            return found[0]  # a word
        option, kind = flags[name].option, flags[name].kind
        if kind == "toggle" and value == "false":
            return option.replace("--", "--no-", 1)
        return option if value is None or (kind in ("switch", "toggle") and value == "true") else f"{option}={value}"

    return re.sub(
        r"(?<![\w./=-])(?P<name>[a-z]\w*)(?![\w/-]|\.\w)(?:=(?P<value>true|false|null|(?=\S)))?", spelled, text
    )


def joint(found: list[UserError], *, whom: str = "this run") -> UserError:
    """Return one error for everything that was found."""
    return found[0] if len(found) == 1 else UserError(f"{len(found)} problems would stop {whom}:", parts=found)


def without_evaluation(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Return settings that switch evaluation off where there is nothing to evaluate on, and what to say of it.

    Fine-tuning data whose split is not given is all trained on.
    """
    changed: dict[str, Any] = {}
    if settings.get("split") is None and settings.get("data_path") is not None and is_fine_tuning(settings):
        changed["split"] = "100,0,0"
        settings = settings.with_defaults(changed)
    iterations = settings.effective("eval_iters")
    if splits.has_validation(settings) or iterations in (0, "0"):
        return changed, []
    if settings.on("full_validation"):
        raise UserError(
            "full_validation=true needs validation data", fix="give it a share of split, or valid_data_path"
        )
    why = f"split={settings.get('split')} leaves none" if settings.has("split") else "valid_data_path is not given"
    if "split" in changed:
        why = "all conversations are trained on, since split is not given; split=98,2,0 keeps 2 % for it"
    return changed | {"eval_iters": 0}, [f"no validation data, so no evaluation: {why}"]


def is_fine_tuning(settings: Settings) -> bool:
    """Tell whether the data is of `meap preprocess sft`; what cannot be read is refused later."""
    prefixes = blend.prefixes_of(settings.get("data_path"))
    try:
        return any(read_sidecar(prefix).kind == "sft" for prefix in prefixes if sidecar_path(prefix).exists())
    except UserError:
        return False
