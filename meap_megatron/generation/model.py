"""Open a model for generation: how prompts begin, where answers end, and what is never generated.

A checkpoint of Megatron needs no export on the disk: its tensors are read one at a time into a model of transformers, and
only config, tokenizer and chat template, as an export writes them, go through a temporary folder.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.errors import RunError, UserError, first_line
from meap_megatron.evaluation import bos, identity
from meap_megatron.evaluation.prompt_format import ChatPolicy, decide, own_decoding
from meap_megatron.evaluation.prompt_length import load_tokenizer
from meap_megatron.generation.generation_settings import Source

MASK = "[MASK]"


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A loaded model with everything that decides what it is given and when it stops."""

    model: Any
    """Of transformers, in evaluation mode; its generation config is greedy and holds ends and `never`."""
    tokenizer: Any
    add_bos: bool
    """Whether a text that is continued begins with BOS."""
    chat: ChatPolicy
    ends: tuple[int, ...]
    """Ids at which generation stops."""
    never: tuple[int, ...]
    """Ids whose logit is -inf: [MASK], what the export suppresses, and rows of the vocabulary that no token has."""
    limit: int | None
    """Tokens that the model takes, prompt and answer together."""


def open_model(source: Source) -> OpenModel:
    """Load a model and decide how it is asked.

    Raises:
        UserError: there is no such model, or its tokenizer, chat template or a setting cannot be used.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = source.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except Exception as error:
        raise UserError(f"--device {device} cannot be used here: {first_line(error):.200}") from None
    if (source.model / "config.json").is_file():
        if source.tokenizer is not None or source.data is not None:
            raise UserError(
                f"{source.model} is a Hugging Face folder; --tokenizer and --data are for checkpoints of a run",
                fix="leave --tokenizer and --data out",
            )
        identity.check_model(source.model)
        return _ready(source, source.model, _load(source, source.model), device)
    with tempfile.TemporaryDirectory(prefix="meap-generate-") as name:
        return _ready(source, Path(name), _load_checkpoint(source, Path(name)), device)


def _load(source: Source, folder: Path) -> Any:
    """Return the model of a Hugging Face folder."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=source.dtype, local_files_only=True)
    except Exception as error:
        raise UserError(f"model {folder} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error


def _load_checkpoint(source: Source, folder: Path) -> Any:
    """Return the model of a checkpoint, and write what belongs to it except its weights into a folder."""
    import torch
    import transformers

    from meap_megatron.checkpoint.convert.exporting import (
        ExportSettings,
        hf_entries,
        hf_tensor,
        plan_export,
        write_side_files,
    )
    from meap_megatron.checkpoint.convert.hf_config import what_it_is

    if not source.model.is_dir():
        raise UserError(
            f"model {source.model} is not a folder", fix="give a run, a checkpoint or a Hugging Face folder"
        )
    found = what_it_is(source.model)
    if "checkpoint" not in found and not (source.model / "metadata.json").is_file():
        raise UserError(
            f"{source.model} is neither a Hugging Face model nor a checkpoint of a run: {found}",
            fix="give a run, a checkpoint or a Hugging Face folder",
        )
    plan = plan_export(ExportSettings(checkpoint=source.model, tokenizer=source.tokenizer, data=source.data))
    print(f"model: {plan.checkpoint.path}", file=sys.stderr, flush=True)
    weights = {name: hf_tensor(plan, entry, layer, place) for name, entry, layer, place in hf_entries(plan.spec)}
    stored = next(iter(weights.values())).dtype
    write_side_files(plan, folder, dtype=str(stored).removeprefix("torch."))
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    dtype = stored if source.dtype == "auto" else getattr(torch, source.dtype)
    model = kind.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def _ready(source: Source, folder: Path, model: Any, device: str) -> OpenModel:
    """Put a model on its device and decide how it is asked, by the files of a folder."""
    tokenizer = exact_tokenizer(folder)
    policy = bos.decide(folder, tokenizer)
    chat = decide(folder, tokenizer, requested=source.chat)
    decoding = own_decoding(model, stop_ids=chat.stop_ids if chat.apply else (), tokenizer=tokenizer)
    never = never_generated(model, tokenizer, recorded=(bos.read_policy(folder) or {}).get("mask_token_id"))
    model.generation_config.suppress_tokens = list(never) or None
    with full_memory_named():
        model = model.to(device).eval()
    return OpenModel(
        model=model,
        tokenizer=tokenizer,
        add_bos=policy.add_bos,
        chat=chat,
        ends=tuple(decoding["eos_token_id"]),
        never=never,
        limit=getattr(model.config, "max_position_embeddings", None),
    )


@contextlib.contextmanager
def full_memory_named() -> Iterator[None]:
    """Turn the error of a GPU whose memory is full into one that says what to do.

    Raises:
        RunError: it is full.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the GPU's memory is full ({first_line(error):.200})",
            fix="use --dtype bfloat16, a shorter prompt, a smaller --batch-size, or --device cpu",
        ) from None


def exact_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder, whose ids are those of its tokenizer.json.

    transformers 5 loads the class that belongs to the model's family, whose rules may be those of another tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    from meap_megatron.checkpoint.convert.verifying import tokenizer_problem

    if tokenizer_problem(folder) is None:
        return load_tokenizer(str(folder))
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def never_generated(model: Any, tokenizer: Any, *, recorded: int | None) -> tuple[int, ...]:
    """Return the ids that must not come out of a model.

    Args:
        model: of transformers; its generation config may suppress some.
        tokenizer: whose [MASK] is one, and whose size ends the ids that have a text.
        recorded: id of [MASK] as the export wrote it.
    """
    vocabulary = tokenizer.get_vocab()
    found = {*(model.generation_config.suppress_tokens or ()), recorded, tokenizer.mask_token_id, vocabulary.get(MASK)}
    rows = model.get_input_embeddings().weight.shape[0]
    found |= set(range(max(vocabulary.values()) + 1, rows))
    return tuple(sorted(number for number in found if number is not None and 0 <= number < rows))
