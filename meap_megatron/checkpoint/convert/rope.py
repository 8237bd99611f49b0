"""The rotary embedding of a model: config.json of Hugging Face <-> `Rope` <-> Megatron's arguments.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 writes both into `rope_parameters`. Either is read;
what is written holds both, so that either version finds the right base and scaling.
"""

import argparse
import math
from typing import Any

from meap_megatron.checkpoint.convert.spec import Scaling
from meap_megatron.errors import UserError

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What Megatron's rotary embedding hard-codes beside the factor."""

FIELDS = {"rope_theta", "rope_scaling", "rope_parameters"}
KNOWN = {
    *LLAMA3,
    *"rope_theta rope_type type factor beta_fast beta_slow mscale mscale_all_dim attention_factor truncate".split(),
    "partial_rotary_factor",
}
"""Rotary parameters that are read."""

UNKNOWN_TO_MEGATRON = {
    "dynamic": "its base grows with the length of the sequence, and Megatron's is fixed",
    "longrope": "it has a factor for every frequency, and Megatron takes none",
    "su": "it has a factor for every frequency, and Megatron takes none",
}


def read(
    config: dict[str, Any], *, source: str, base: float, allowed: tuple[str, ...] = ()
) -> tuple[int, Scaling | None]:
    """Return (base, scaling or None) of a config.json.

    Args:
        base: what the family has where the config names none.
        allowed: unknown parameters that the user says do not matter.

    Raises:
        UserError: a rotary embedding that Megatron 0.19 does not compute; by name.
    """
    parameters = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    for name, value in parameters.items():
        if name not in KNOWN and name not in allowed and value not in (None, False):
            raise UserError(
                f"{source}: rope_parameters has {name}={value!r}, which the converter does not know",
                fix=f"if it does not change the computation, say so with --allow-config-field {name}",
            )
    bases = {float(value) for value in (parameters.get("rope_theta"), config.get("rope_theta")) if value is not None}
    if len(bases) > 1:
        raise UserError(
            f"{source}: rope_theta and rope_parameters name two bases, {sorted(bases)}", fix="correct one of them"
        )
    base = bases.pop() if bases else base
    if base != int(base):
        raise UserError(
            f"{source}: rope_theta={base} is not a whole number, and Megatron's --rotary-base takes no other"
        )
    if parameters.get("partial_rotary_factor") not in (None, 1):
        raise UserError(
            f"{source}: partial_rotary_factor={parameters['partial_rotary_factor']}: rotary positions must cover the whole "
            "head"
        )
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        return int(base), None
    if kind not in READERS:
        reason = UNKNOWN_TO_MEGATRON.get(kind, "Megatron's GPT model does not know it")
        raise UserError(f"{source}: rope_type {kind!r} is not converted: {reason}; default, {', '.join(READERS)} are")
    if not isinstance(parameters.get("factor"), int | float):
        raise UserError(f"{source}: the {kind} rope scaling has no factor")
    length = config.get("original_max_position_embeddings") or config.get("max_position_embeddings")
    if parameters.get("original_max_position_embeddings") is None:
        parameters["original_max_position_embeddings"] = length
    return int(base), READERS[kind](parameters, source)


def _llama3(parameters: dict[str, Any], source: str) -> Scaling:
    for field, value in LLAMA3.items():
        if float(parameters.get(field, value)) != value:
            raise UserError(
                f"{source}: {field}={parameters[field]}, but Megatron hard-codes {value:g} for llama3 scaling"
            )
    return Scaling(kind="llama3", factor=float(parameters["factor"]))


def _linear(parameters: dict[str, Any], source: str) -> Scaling:
    factor = float(parameters["factor"])
    if factor != int(factor):
        raise UserError(
            f"{source}: factor={factor} of the linear rope scaling is not a whole number, and Megatron's "
            "--rotary-seq-len-interpolation-factor takes no other"
        )
    return Scaling(kind="linear", factor=factor)


def _yarn(parameters: dict[str, Any], source: str) -> Scaling:
    factor = float(parameters["factor"])
    mscale, all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
    given = parameters.get("attention_factor")
    if given is not None:
        attention = round(float(given), DIGITS)
    else:
        attention = attention_factor(factor, *((mscale, all_dim) if mscale and all_dim else (1.0, 0.0)))
    if factor <= 1 and attention != 1:
        raise UserError(
            f"{source}: attention_factor={attention} with factor={factor}: Megatron scales attention only for factors "
            "above 1"
        )
    return Scaling(
        kind="yarn",
        factor=factor,
        original=int(parameters["original_max_position_embeddings"]),
        beta_fast=float(parameters.get("beta_fast") or 32),
        beta_slow=float(parameters.get("beta_slow") or 1),
        attention=attention,
        rounded=bool(parameters.get("truncate", True)),
    )


READERS = {"llama3": _llama3, "linear": _linear, "yarn": _yarn}
"""`rope_type` -> what reads its parameters."""

DIGITS = 9
"""Behind the point, to which a factor of attention is compared: float32 has seven."""


def attention_factor(factor: float, mscale: float = 1.0, mscale_all_dim: float = 0.0) -> float:
    """Return what YaRN multiplies cosine and sine by, as Megatron and transformers compute it.

    Given factor 4 then 0.1 * ln 4 + 1 = 1.138629436.
    """
    if factor <= 1:
        return 1.0
    log = 0.1 * math.log(factor)
    return round((log * mscale + 1) / (log * mscale_all_dim + 1), DIGITS)


def config_fields(base: int, scaling: Scaling | None) -> dict[str, Any]:
    """Return the rotary fields of config.json, in the layouts of transformers 4 and 5 side by side."""
    parameters: dict[str, Any] | None = None
    if scaling is not None:
        parameters = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            parameters |= LLAMA3
        if scaling.kind == "yarn":
            parameters |= {
                "original_max_position_embeddings": scaling.original,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
            }
            if scaling.attention != attention_factor(scaling.factor):
                parameters["attention_factor"] = scaling.attention
            if not scaling.rounded:
                parameters["truncate"] = False
    return {
        "rope_theta": float(base),
        "rope_scaling": parameters,
        "rope_parameters": {**(parameters or {"rope_type": "default"}), "rope_theta": float(base)},
    }


def settings(scaling: Scaling | None) -> dict[str, Any]:
    """Return the recipe keys of a scaling, `position_embedding_type` among them."""
    if scaling is None:
        return {"position_embedding_type": "rope"}
    if scaling.kind == "llama3":
        return {
            "position_embedding_type": "rope",
            "use_rope_scaling": True,
            "rope_scaling_factor": scaling.factor,
        }
    if scaling.kind == "linear":
        return {"position_embedding_type": "rope", "rotary_seq_len_interpolation_factor": int(scaling.factor)}
    found: dict[str, Any] = {
        "position_embedding_type": "yarn",
        "rotary_scaling_factor": scaling.factor,
        "yarn_original_max_position_embeddings": scaling.original,
        "yarn_beta_fast": scaling.beta_fast,
        "yarn_beta_slow": scaling.beta_slow,
    }
    if scaling.attention != attention_factor(scaling.factor):
        found["mscale"] = (scaling.attention - 1) / (0.1 * math.log(scaling.factor))
    if not scaling.rounded:
        found["no_yarn_correction_range_round_to_int"] = True
    return found


def arguments(scaling: Scaling | None) -> dict[str, Any]:
    """Return the same as Megatron's arguments in a checkpoint, what is absent included."""
    absent = {
        "use_rope_scaling": False,
        "rope_scaling_factor": 8.0,
        "rotary_seq_len_interpolation_factor": None,
        "rotary_scaling_factor": 1.0,
        "yarn_original_max_position_embeddings": None,
        "yarn_beta_fast": None,
        "yarn_beta_slow": None,
        "yarn_correction_range_round_to_int": None,
        "mscale": 1.0,
        "mscale_all_dim": 0.0,
    }
    given = settings(scaling)
    if given.pop("no_yarn_correction_range_round_to_int", False):
        given["yarn_correction_range_round_to_int"] = False
    return absent | given


def read_arguments(args: argparse.Namespace) -> Scaling | None:
    """Return the scaling that Megatron's arguments describe."""

    def get(name: str, absent: Any) -> Any:
        value = getattr(args, name, None)
        return absent if value is None else value

    if getattr(args, "position_embedding_type", "rope") == "yarn":
        factor = float(get("rotary_scaling_factor", 1.0))
        return Scaling(
            kind="yarn",
            factor=factor,
            original=int(get("yarn_original_max_position_embeddings", 4096)),
            beta_fast=float(get("yarn_beta_fast", 32.0)),
            beta_slow=float(get("yarn_beta_slow", 1.0)),
            attention=attention_factor(factor, get("mscale", 1.0), get("mscale_all_dim", 0.0)),
            rounded=bool(get("yarn_correction_range_round_to_int", True)),
        )
    if getattr(args, "use_rope_scaling", False):
        return Scaling(kind="llama3", factor=float(args.rope_scaling_factor))
    if (interpolation := get("rotary_seq_len_interpolation_factor", 1)) != 1:
        return Scaling(kind="linear", factor=float(interpolation))
    return None
