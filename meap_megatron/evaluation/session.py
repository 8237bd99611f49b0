"""One model, loaded once for all suites of a run, with everything that identifies its answers."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation import bos, identity
from meap_megatron.evaluation.prompt_format import ChatPolicy, decide, own_decoding, wrap
from meap_megatron.evaluation.prompt_length import load_tokenizer, model_limit
from meap_megatron.evaluation.suites import Request, Suite
from meap_megatron.terminal import is_verbose


@dataclass(kw_only=True)
class Session:
    """The model under evaluation."""

    lm: Any
    """A harness model."""
    model: dict[str, Any]
    tokenizer: dict[str, Any]
    policy: bos.BosPolicy
    chat: ChatPolicy
    decoding: dict[str, Any]
    """How answers are generated."""
    limit: int | None
    """Tokens that the model takes, prompt and answer together."""

    def asks_in_chat(self, suite: Suite) -> bool:
        """Tell whether the prompts of a suite go through the chat template."""
        return suite.chat and self.chat.apply

    def prompts(self, suite: Suite) -> dict[str, Any]:
        """Return how the prompts of a suite are given to the model, for the results document."""
        applied = self.asks_in_chat(suite)
        source = self.chat.source if suite.chat else "this suite asks no questions"
        begins = {"add_bos": self.policy.add_bos, "source": self.policy.source}
        if applied:
            first = wrap(self.lm.tokenizer, "x").startswith(self.lm.tokenizer.bos_token or "\0")
            begins = {"add_bos": first, "source": "chat template"}
        return {"bos": begins, "chat_template": {"applied": applied, "source": source}, "decoding": self.decoding}

    def identity(self) -> dict[str, Any]:
        """Return what an answer of this model depends on."""
        return {
            "model": self.model["fingerprint"],
            "dtype": self.model.get("dtype"),
            "tokenizer": self.tokenizer["fingerprint"],
            "add_bos": self.policy.add_bos,
            "max_length": self.limit,
            "stops": self.decoding["eos_token_id"],
            **({"backend": self.model["backend"]} if "backend" in self.model else {}),
        }


def open_session(request: Request) -> Session:
    """Check and load the model of a request.

    Raises:
        UserError: model, tokenizer, BOS policy or a setting cannot be used.
    """
    folder = request.model
    tokenizer = load_tokenizer(str(folder))
    policy = bos.decide(folder, tokenizer, requested=request.bos)
    of_tokenizer = identity.tokenizer_identity(folder)
    recorded = (bos.read_policy(folder) or {}).get("tokenizer_fingerprint")
    if recorded is not None and recorded != of_tokenizer["corpus_fingerprint"]:
        raise UserError(
            f"{folder / bos.FILE_NAME} says that the model was trained with tokenizer {recorded:.12}, but the one beside "
            f"it is {str(of_tokenizer['corpus_fingerprint']):.12}",
            fix="put the tokenizer of the training data there",
        )
    limit = model_limit(str(folder))
    if request.max_length is not None:
        if limit is not None and request.max_length > limit:
            raise UserError(
                f"--max-length {request.max_length} is above the model's limit of {limit} tokens (config.json)",
                fix=f"take at most {limit}",
            )
        limit = request.max_length
    chat = decide(folder, tokenizer, requested=request.chat)
    model = identity.model_identity(folder)
    load = load_vllm if request.backend == "vllm" else load_model
    lm, decoding = load(request, policy=policy, limit=limit, model=model, stop_ids=chat.stop_ids if chat.apply else ())
    first = lm.tok_encode("x")[:1]
    if (first == [lm.tokenizer.bos_token_id]) != policy.add_bos:
        raise UserError(
            f"model {folder}: prompts must begin {'with' if policy.add_bos else 'without'} BOS ({policy.source}), "
            f"and its tokenizer cannot be made to do so",
            fix="export the model again",
        )
    return Session(
        lm=lm, chat=chat, decoding=decoding, model=model, tokenizer=of_tokenizer, policy=policy, limit=limit
    )


def choose_dtype(folder: Path, *, requested: str, device: str) -> str:
    """Return the precision of a model: as saved, unless its device computes faster in another one, which is said.

    bfloat16 instead of float32 on a GPU that has it; float32 on a CPU without instructions for the 16 bits of the weights.
    """
    import torch
    from transformers import AutoConfig

    saved = str(AutoConfig.from_pretrained(str(folder)).dtype).removeprefix("torch.")
    if requested != "auto" or saved not in ("float32", "bfloat16", "float16"):
        return requested
    found = saved
    if device.startswith("cuda") and saved == "float32" and torch.cuda.is_bf16_supported(including_emulation=False):
        found = "bfloat16"
    elif device == "cpu" and saved != "float32":
        instructions: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        suffix = "bf16" if saved == "bfloat16" else "fp16"
        found = saved if any(there for name, there in instructions.items() if name.endswith(suffix)) else "float32"
    if found != saved:
        print(f"{folder}: saved in {saved}, evaluated in {found} (--dtype {saved} keeps it)", file=sys.stderr)
    return found


def load_model(
    request: Request, *, policy: bos.BosPolicy, limit: int | None, stop_ids: tuple[int, ...], model: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Load the harness's Hugging Face model, add its size and precision to `model`, and return it and how it decodes.

    Raises:
        UserError: transformers cannot load it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    from meap_megatron.evaluation.harness_model import SharedPrefixLM

    if not is_verbose():
        transformers.logging.disable_progress_bar()

    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        lm = SharedPrefixLM(
            pretrained=str(request.model),
            device=device,
            dtype=choose_dtype(request.model, requested=request.dtype, device=device),
            batch_size=request.batch_size,
            max_length=limit,
            add_bos_token=policy.override,
        )
    except Exception as error:
        raise UserError(f"model {request.model} cannot be loaded: {type(error).__name__}: {error}") from error
    model |= identity.described(lm.model, device)
    return lm, own_decoding(lm.model, stop_ids=stop_ids, tokenizer=lm.tokenizer)


def load_vllm(
    request: Request, *, policy: bos.BosPolicy, limit: int | None, stop_ids: tuple[int, ...], model: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Load the harness's vLLM model; otherwise as `load_model`.

    Raises:
        UserError: vLLM cannot load it.
    """
    import torch
    import transformers

    from meap_megatron.evaluation.harness_model import vllm_model

    config = transformers.AutoConfig.from_pretrained(str(request.model))
    with torch.device("meta"):
        shape = transformers.AutoModelForCausalLM.from_config(config)
    if (request.model / "generation_config.json").is_file():
        shape.generation_config = transformers.GenerationConfig.from_pretrained(str(request.model))
    decoding = own_decoding(shape, stop_ids=stop_ids, tokenizer=load_tokenizer(str(request.model)))
    try:
        lm = vllm_model(
            pretrained=str(request.model),
            dtype=request.dtype,
            max_model_len=limit,
            add_bos_token=policy.override,
            ends=decoding["eos_token_id"],
            never=shape.generation_config.suppress_tokens or (),
        )
    except Exception as error:
        raise UserError(f"vLLM cannot load {request.model}: {type(error).__name__}: {error}") from error
    dtype = request.dtype if request.dtype != "auto" else str(config.dtype).removeprefix("torch.")
    model |= identity.described(shape, "cuda") | {"dtype": dtype, "backend": "vllm"}
    return lm, decoding
