"""The two models of an attention analysis: the one under evaluation (MEAP) and the one it is compared with (NTP)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation import bos, identity
from meap_megatron.evaluation.prompt_length import load_tokenizer, model_limit
from meap_megatron.evaluation.session import Session, choose_dtype
from meap_megatron.evaluation.suites import Request


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """One of the two models, loaded."""

    name: str
    """"meap" or "ntp"."""
    folder: Path
    model: Any
    tokenizer: Any
    add_bos: bool
    info: dict[str, Any]
    """What the results document says of it."""
    limit: int | None
    """Tokens that it takes."""


def baseline_folder(request: Request) -> Path:
    """Return the folder of the NTP model.

    Raises:
        UserError: none was given, or it is not a model.
    """
    if not request.baseline:
        raise UserError(
            "the attention analyses compare two models",
            fix="give the one trained with NTP as --baseline DIR beside --model",
        )
    folder = Path(request.baseline)
    identity.check_model(folder)
    return folder


@lru_cache(maxsize=2)
def fingerprints(folder: Path) -> dict[str, str]:
    """Return the fingerprints of a model folder: its weights and its tokenizer."""
    return {
        "model": identity.model_identity(folder)["fingerprint"],
        "tokenizer": identity.tokenizer_identity(folder)["fingerprint"],
    }


def open_arms(request: Request, session: Session) -> tuple[ComparedModel, ComparedModel]:
    """Return the MEAP arm, which the session holds already, and the NTP arm, which is loaded beside it.

    Raises:
        UserError: the baseline cannot be loaded, the two are in the wrong order, or the attention of one cannot be
            observed.
    """
    from meap_megatron.evaluation.attention.observe import check_observable

    folder = baseline_folder(request)
    check_order(request.model, folder)
    meap = asked_model(request, session, name="meap")
    ntp = _load(request, folder, device=session.model["device"])
    for arm in (meap, ntp):
        check_observable(arm.model, name=str(arm.folder))
    return meap, ntp


def check_order(model: Path, baseline: Path) -> None:
    """Refuse two models that say themselves that they are in the wrong order.

    Raises:
        UserError: by their `meap_eval.json` the baseline was trained with masks and the model without.
    """
    ratios = [(bos.read_policy(folder) or {}).get("mask_ratio") for folder in (model, baseline)]
    if ratios[0] is not None and ratios[1] is not None and ratios[0] < ratios[1]:
        raise UserError(
            f"--model {model} was trained with mask ratio {ratios[0]}, --baseline {baseline} with {ratios[1]} "
            f"({bos.FILE_NAME}): the baseline is the model without masks",
            fix="exchange --model and --baseline",
        )


def asked_model(request: Request, session: Session, *, name: str) -> ComparedModel:
    """Return the model that a run evaluates, as the session has it."""
    return ComparedModel(
        name=name,
        folder=request.model,
        model=session.lm.model,
        tokenizer=session.lm.tokenizer,
        add_bos=session.policy.add_bos,
        info={},
        limit=session.limit,
    )


def _load(request: Request, folder: Path, *, device: str) -> ComparedModel:
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(str(folder))
    policy = bos.decide(folder, tokenizer, requested=request.bos)
    dtype = choose_dtype(folder, requested=request.dtype, device=device)
    try:
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype).to(device).eval()
    except Exception as error:
        raise UserError(f"baseline {folder} cannot be loaded: {type(error).__name__}: {error}") from error
    info = identity.model_identity(folder) | identity.described(model, device)
    info["tokenizer"] = identity.tokenizer_identity(folder)
    info["bos"] = {"add_bos": policy.add_bos, "source": policy.source}
    return ComparedModel(
        name="ntp",
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        add_bos=policy.add_bos,
        info=info,
        limit=model_limit(str(folder)),
    )


def shorter_limit(arms: tuple[ComparedModel, ComparedModel]) -> int | None:
    """Return the tokens that both models take, or None if neither says."""
    return min((arm.limit for arm in arms if arm.limit is not None), default=None)
