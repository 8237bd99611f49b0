"""Compute the logits of a Hugging Face folder and of a checkpoint on fixed ids, and compare them.

Both sides read what was written and compute in float32: transformers in this process, Megatron's own model in another one
(`training.logits`). Two sequences are run: one from position 0 on, and one of two blocks of which the second
is at the end of the longest sequence that the model is meant for, scaled frequencies included, so that rotary positions
far beyond 4,096 are compared at the price of 64 tokens. A small model's first sequence is itself longer than 4,096 tokens
where the model allows.
"""

import contextlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from meap_megatron.checkpoint.convert.agreement import LogitComparison, compare
from meap_megatron.checkpoint.convert.chat_files import text_of
from meap_megatron.checkpoint.convert.hf_config import read_config, spec_from_config
from meap_megatron.checkpoint.convert.hf_files import open_folder
from meap_megatron.checkpoint.convert.megatron_config import recipe_settings, spec_from_args
from meap_megatron.checkpoint.convert.megatron_files import open_checkpoint
from meap_megatron.checkpoint.convert.record import ADAPTER, read_record
from meap_megatron.checkpoint.convert.source_checks import check_adapter, check_tensors
from meap_megatron.checkpoint.convert.spec import ModelSpec, differences
from meap_megatron.errors import RunError, UserError, first_line
from meap_megatron.layer_pattern import of_blocks
from meap_megatron.memory import free_memory
from meap_megatron.terminal import is_verbose

SHORT, LONG = 64, 4160  # tokens
LONG_WORK = 2e11  # parameters x tokens up to which the long sequence is run


def verify(
    hf: Path,
    checkpoint: Path,
    *,
    megatron: str,
    layers: int | None = None,
    allowed: tuple[str, ...] = (),
    ignore_adapter: bool = False,
) -> LogitComparison:
    """Compare a Hugging Face folder with a checkpoint: first every field of their configs, then their logits.

    Args:
        checkpoint: a save folder, an import, or one iter_* folder.
        layers: run only the first so many layers; None: all, or as many as memory holds.
        allowed: unknown config fields that do not matter.
        ignore_adapter: compare the weights alone where a LoRA adapter is beside them.

    Raises:
        UserError: one of them cannot be read, or a field of their configs differs.
        RunError: the logits differ; says where from.
    """
    opened = open_checkpoint(checkpoint)
    opened.check_trusted()
    spec = spec_from_config(read_config(hf), source=str(hf / "config.json"), allowed=allowed)
    check_adapter(hf, ignore=ignore_adapter)
    check_tensors(open_folder(hf), spec, source=hf)
    stored = spec_from_args(opened.args, source=str(opened.path), family=spec.family)
    if wrong := differences(spec, stored, ignore=("vocab_rows",)):
        raise UserError(f"{hf} and {opened.path} are not the same model: {'; '.join(wrong)}")
    table = opened.entry("embedding.word_embeddings.weight")
    if table is None:
        raise UserError(f"{opened.path} holds no embedding")
    stored = stored.with_rows(table.size[0])
    record = read_record(opened.path.parent)
    replaced = record.mask_id if record else None
    used = min(spec.num_layers, layers or layers_in_memory(spec))
    sequences = fixed_sequences(spec, rows=min(spec.vocab_rows, stored.vocab_rows), replaced=replaced)
    pattern = {"hybrid_layer_pattern": of_blocks([used])} if opened.is_hybrid else {}
    request = {
        "checkpoint": str(opened.path.resolve()),
        "settings": recipe_settings(stored.with_layers(used)) | pattern,
        "layers": stored.num_layers,
        "sequences": sequences,
    }
    # Starting Megatron takes as long as all the rest: both sides run at once.
    with megatron_logits(request, program=megatron) as theirs:
        ours = hf_logits(hf, layers=used, sequences=sequences)
        result = compare(ours, theirs(), spec=spec, sequences=sequences, replaced=replaced)
    if not result.agrees:
        place = {None: "the head", 0: "the embedding"}.get(result.first_layer, f"layer {result.first_layer}")
        raise RunError(f"{hf} and {opened.path} do not give the same logits; {place} differs first\n{result.line()}")
    return result


# LlamaTokenizer of transformers 5 gives a text that begins with a space one token fewer than Llama-2's tokenizer.json.
SAMPLES = ("def f(x):\n    return  x + 12345  # Größe, 大小\n", " a space", "\na newline")


def tokenizer_problem(folder: Path) -> str | None:
    """Return what to tell a user whose AutoTokenizer does not give the ids of the folder's tokenizer.json, or None.

    transformers 5 loads the class that belongs to the model's family, whose rules may be those of another tokenizer.
    """
    if not all((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    import tokenizers
    import transformers

    exact = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    unequal = [
        text
        for text in SAMPLES
        if loaded(text, add_special_tokens=False)["input_ids"] != exact.encode(text, add_special_tokens=False).ids
    ]
    if not unequal and loaded.get_vocab() == exact.get_vocab(with_added_tokens=True):
        stated = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        for role in ("bos_token", "eos_token", "pad_token"):
            if role in stated and (found := getattr(loaded, role)) != text_of(stated[role]):
                return (
                    f"AutoTokenizer loads {folder} with {role} {found!r}, tokenizer_config.json says {stated[role]!r}"
                )
        return None
    return (
        f"AutoTokenizer loads {folder} as {type(loaded).__name__}, which gives other ids than its tokenizer.json (the "
        f"data's){f', for example for {unequal[0]!r}' if unequal else ''}; load it with "
        f"transformers.PreTrainedTokenizerFast.from_pretrained"
    )


def fixed_sequences(spec: ModelSpec, *, rows: int, replaced: int | None) -> list[dict[str, Any]]:
    """Return the ids and positions that are run, the same for every call.

    Args:
        rows: ids are below it.
        replaced: an id that must not occur, because the import gave [MASK] a row that was padding before; or None.
    """
    draw = random.Random(20250210)
    allowed = [i for i in range(rows) if i != replaced]
    long = min(LONG, spec.max_positions)
    length = long if spec.num_parameters * long <= LONG_WORK else min(SHORT, spec.max_positions)
    near = {
        "ids": draw.choices(allowed, k=length),
        "positions": list(range(length)),
        "first": max(0, length - SHORT),
    }
    half = min(SHORT, spec.max_positions) // 2
    far = {
        "ids": draw.choices(allowed, k=2 * half),
        "positions": [*range(half), *range(spec.longest - half, spec.longest)],
        "first": 0,
    }
    return [near, far] if half else [near]


def layers_in_memory(spec: ModelSpec) -> int:
    """Return how many layers fit into two thirds of the free memory in float32; at least one."""
    if (free := free_memory()) is None:
        return spec.num_layers
    tables = (1 if spec.tied else 2) * spec.vocab_rows * spec.hidden_size
    layer = (spec.num_parameters - tables) / spec.num_layers
    # Loading holds the weights twice for a moment.
    return max(1, min(spec.num_layers, int((free * 2 / 3 / 8 - tables) / layer)))


def hf_logits(folder: Path, *, layers: int, sequences: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return logits and hidden states of transformers, in the form of Megatron's (`training.logits.compute`)."""
    import transformers

    if not is_verbose():
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    if (folder / ADAPTER).is_file():
        with tempfile.TemporaryDirectory(prefix="meap-verify-") as bare:
            # transformers adds an adapter that it finds beside the weights, and has no option against it.
            for path in folder.resolve().iterdir():
                if path.name != ADAPTER:
                    (Path(bare) / path.name).symlink_to(path)
            return hf_logits(Path(bare), layers=layers, sequences=sequences)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True
        ).eval()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"transformers cannot load {folder}, with which the result is compared ({type(error).__name__}: "
            f"{first_line(error)})",
            fix="correct its config.json, or convert it with --skip-verification",
        ) from error
    results = []
    for sequence in sequences:
        seen: list[torch.Tensor] = []

        def keep(module: Any, inputs: Any, out: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append((out[0] if isinstance(out, tuple) else out).reshape(-1, config.hidden_size))

        hooks = [m.register_forward_hook(keep) for m in (model.model.embed_tokens, *model.model.layers)]
        ids = torch.tensor([sequence["ids"]])
        with torch.no_grad():
            # With a mask of ones, transformers does not take the gap in the positions for the start of another sequence.
            output = model(
                ids,
                attention_mask=torch.ones_like(ids),
                position_ids=torch.tensor([sequence["positions"]]),
                use_cache=False,
                logits_to_keep=len(sequence["ids"]) - sequence["first"],
            )
        for hook in hooks:
            hook.remove()
        results.append({"logits": output.logits[0], "hidden": seen})
    return results


@contextlib.contextmanager
def megatron_logits(request: dict[str, Any], *, program: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Start Megatron in a process of its own; yield a function that waits for its logits and hidden states.

    Args:
        program: name of the module that computes it: `python -m PROGRAM REQUEST.json`.

    Raises:
        RunError: Megatron fails; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="meap-verify-") as name:
        folder = Path(name)
        output = folder / "logits.pt"
        (folder / "request.json").write_text(json.dumps({**request, "output": str(output)}), encoding="utf-8")
        command = [sys.executable, "-m", program, str(folder / "request.json")]
        with (folder / "log").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)

            def wait() -> list[dict[str, Any]]:
                if process.wait() != 0:
                    text = (folder / "log").read_text(errors="replace").strip()
                    last = text.splitlines()[-1] if text else "no output"
                    raise RunError(f"Megatron cannot run {request['checkpoint']}: {last}")
                return torch.load(output, weights_only=True)

            try:
                yield wait
            finally:
                process.kill()
                process.wait()
