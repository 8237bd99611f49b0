"""Megatron -> Hugging Face: weights cut to the vocabulary, the tokenizer beside them, and how the model was trained."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from meap_megatron.checkpoint.convert import tensors as ops
from meap_megatron.checkpoint.convert.chat_files import ChatFormat, chat_format_of, generation_ends, write_chat_format
from meap_megatron.checkpoint.convert.convert_settings import ExportSettings
from meap_megatron.checkpoint.convert.families import (
    FAMILIES,
    TOP,
    TensorEntry,
    hf_shapes,
    layer_entries,
    top_entries,
)
from meap_megatron.checkpoint.convert.hf_config import config_from_spec, read_config
from meap_megatron.checkpoint.convert.hf_files import INDEX, SINGLE, plan_shards, write_json, write_shard
from meap_megatron.checkpoint.convert.megatron_config import spec_from_args
from meap_megatron.checkpoint.convert.megatron_files import LAYERS, Checkpoint, open_checkpoint
from meap_megatron.checkpoint.convert.provenance import DataInfo, evaluation_record, tokenizer_of
from meap_megatron.checkpoint.convert.record import HF_FOLDER, ImportRecord, origin
from meap_megatron.checkpoint.convert.spec import ModelSpec, differences
from meap_megatron.checkpoint.convert.tokenizer_check import check_tokenizer
from meap_megatron.corpus.progress import Progress
from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import load_tokenizer

EVAL_RECORD = "meap_eval.json"
GENERATION = "generation_config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHANGEABLE = ("family", "vocab_rows", "rotary_base", "scaling", "max_positions")
"""What training may change in an imported model: rows for [MASK], and positions for longer contexts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """An export that was checked and may be written.

    Attributes:
        settings: what the user asked for.
        checkpoint: open for reading.
        stored: the model as it is stored.
        spec: the model as it will be; fewer rows at most.
        source: (folder, record) of the import that the run started from, or None.
        data: tokenizer and BOS policy.
        chat: how the model is talked to, if it was fine-tuned.
    """

    settings: ExportSettings
    checkpoint: Checkpoint
    stored: ModelSpec
    spec: ModelSpec
    source: tuple[Path, ImportRecord] | None
    data: DataInfo
    chat: ChatFormat | None

    @property
    def inherited_fields(self) -> tuple[str, ...]:
        """Return the names in the imported config.json, which were judged when it was imported."""
        return tuple(read_config(self.source[0] / HF_FOLDER)) if self.source else ()

    def rounds(self, dtype: str) -> bool:
        """Tell whether the stored weights do not all fit into a type."""
        types = {stored_dtype(self.checkpoint, entry, layer) for _, entry, layer, _ in hf_entries(self.stored)}
        return any(torch.promote_types(t, DTYPES[dtype]) != DTYPES[dtype] for t in types)


def plan_export(settings: ExportSettings) -> ExportPlan:
    """Open the checkpoint and check it; nothing is written.

    Raises:
        UserError: it cannot be expressed, is damaged, or its tokenizer is not found.
    """
    checkpoint = open_checkpoint(settings.checkpoint)
    source = origin(checkpoint.path, checkpoint.args, named=settings.like)
    family = settings.family or (source[1].spec.family if source else None)
    if family is not None and family not in FAMILIES:
        raise UserError(f"--family {family} is not one of {', '.join(FAMILIES)}")
    stored = spec_from_args(checkpoint.args, source=str(checkpoint.path), family=family)
    if source and (wrong := differences(source[1].spec, stored, ignore=CHANGEABLE)):
        if settings.like is not None:
            raise UserError(
                f"{checkpoint.path} is not of the model that {settings.like} holds: {wrong[0]}",
                fix=f"leave --like out, or name the folder that {checkpoint.path} was imported from",
            )
        source = None
    table = checkpoint.entry(TOP[0].megatron)
    if table is None:
        raise UserError(f"{checkpoint.path} lacks {TOP[0].megatron}; it is not a checkpoint of a Llama-like model")
    stored = stored.with_rows(table.size[0])
    check_stored(checkpoint, stored)
    data = tokenizer_of(checkpoint, source, tokenizer=settings.tokenizer, data=settings.data)
    if source and data.sidecar is not None and settings.tokenizer is None:
        check_tokenizer(*source, data.sidecar, str(data.prefix))
    return ExportPlan(
        settings=settings,
        checkpoint=checkpoint,
        stored=stored,
        spec=stored.with_rows(_rows(settings, stored, source, data)),
        source=source,
        data=data,
        chat=_chat_format(data),
    )


def _chat_format(data: DataInfo) -> ChatFormat | None:
    """Return how a model that was trained on these data is talked to; None if they hold no conversations."""
    if data.sidecar is None or data.sidecar.kind != "sft" or data.folder is None:
        return None
    return chat_format_of(data.sidecar, str(data.prefix), data.folder)


def _rows(settings: ExportSettings, stored: ModelSpec, source: Any, data: DataInfo) -> int:
    """Return the rows that are exported: those of the tokenizer, or more if the imported model had more."""
    used = data.vocab_size
    if used > stored.vocab_rows:
        raise UserError(
            f"the tokenizer {data.folder} gives ids up to {used - 1:,}, but {settings.checkpoint} has {stored.vocab_rows:,} "
            "rows of embedding",
            fix="name the tokenizer that made the data with --tokenizer",
        )
    if settings.rows == "model" or not used:
        return source[1].hf_rows if source and not used else stored.vocab_rows
    rows = max(used, source[1].hf_rows if source else 0)
    return min(rows, stored.vocab_rows)


def check_stored(checkpoint: Checkpoint, spec: ModelSpec) -> None:
    """Compare names and shapes in a checkpoint with those of the model that its arguments describe.

    Raises:
        UserError: a tensor is missing or of another shape.
    """
    expected = {checkpoint.top_name(entry.megatron): entry.shape(spec) for entry in top_entries(spec)}
    for entry in layer_entries(spec):
        for layer in range(spec.num_layers) if checkpoint.per_layer else (0,):
            name = checkpoint.layer_name(entry.megatron, layer)
            shape = entry.shape(spec)
            expected[name or f"{LAYERS}{entry.megatron}"] = (
                shape if checkpoint.per_layer else (spec.num_layers, *shape)
            )
    for name, shape in expected.items():
        found = checkpoint.entry(name)
        if found is None:
            raise UserError(f"{checkpoint.path} lacks {name}, which a {spec.family} model has")
        if tuple(found.size) != shape:
            raise UserError(
                f"{checkpoint.path}: {name} has shape {list(found.size)}, the arguments of its run say {list(shape)}"
            )
    known = set(expected)
    for name in checkpoint.index.state_dict_metadata:
        module = name.removeprefix("module.")
        if module.startswith(("embedding.", "decoder.", "output_layer.")) and "_extra_state" not in name:
            if name not in known:
                raise UserError(f"{checkpoint.path} holds {name}, for which {spec.family} models have no place")


def hf_entries(spec: ModelSpec) -> Iterator[tuple[str, TensorEntry, int | None, int]]:
    """Yield (Hugging Face name, its entry, its layer or None, its place in the entry) of every tensor, in model order."""
    embedding, *rest = top_entries(spec)
    yield embedding.hf[0], embedding, None, 0
    for layer in range(spec.num_layers):
        for entry in layer_entries(spec):
            for place, name in enumerate(entry.hf):
                yield f"model.layers.{layer}.{name}", entry, layer, place
    for entry in rest:
        yield entry.hf[0], entry, None, 0


def stored_dtype(checkpoint: Checkpoint, entry: TensorEntry, layer: int | None) -> torch.dtype:
    """Return the type in which a tensor is stored."""
    name = checkpoint.top_name(entry.megatron) if layer is None else checkpoint.layer_name(entry.megatron, layer)
    found = checkpoint.entry(str(name))
    assert found is not None
    return found.properties.dtype


def hf_tensor(plan: ExportPlan, entry: TensorEntry, layer: int | None, place: int) -> torch.Tensor:
    """Return one tensor as Hugging Face has it, in the stored type."""
    if layer is None:
        tensor = plan.checkpoint.read(plan.checkpoint.top_name(entry.megatron))
        return ops.resized(tensor, plan.spec.vocab_rows) if tensor.dim() == 2 else tensor
    fused, spec = plan.checkpoint.read_layer(entry.megatron, layer), plan.spec
    if not entry.by_group:
        return fused.split(entry.rows(spec))[place]
    parts = ops.split_qkv(fused, heads=spec.num_attention_heads, groups=spec.num_query_groups, head_dim=spec.head_dim)
    return parts[place]


def write_export(plan: ExportPlan, folder: Path) -> None:
    """Write an export into an existing, empty folder."""
    spec, checkpoint = plan.spec, plan.checkpoint
    entries = {name: (entry, layer, place) for name, entry, layer, place in hf_entries(spec)}
    shapes = hf_shapes(spec)
    wanted = DTYPES[plan.settings.dtype] if plan.settings.dtype else None
    types = {name: wanted or stored_dtype(checkpoint, entry, layer) for name, (entry, layer, _) in entries.items()}
    sizes = {name: torch.Size(shapes[name]).numel() * types[name].itemsize for name in entries}
    record = plan.source[1] if plan.source else None
    names_alike = record is not None and {n for group in record.files.values() for n in group} == set(entries)
    files = record.files if record and names_alike else plan_shards(sizes, limit=plan.settings.shard_bytes)

    progress = Progress(sum(sizes.values()), verb="export")

    def make(name: str) -> torch.Tensor:
        progress.copied(sizes[name])
        return hf_tensor(plan, *entries[name]).to(types[name])

    for file, names in files.items():
        metadata = record.metadata.get(file, {}) if record and names_alike else {"format": "pt"}
        write_shard(folder / file, {n: (types[n], shapes[n]) for n in names}, make, metadata=metadata)
    progress.finish(always=False)
    if list(files) != [SINGLE]:
        write_index(folder, files, sizes, plan.source[0] if plan.source and names_alike else None)
    dtype = str(types[TOP[0].hf[0]]).removeprefix("torch.")
    write_side_files(plan, folder, dtype=dtype)


def write_index(folder: Path, files: dict[str, list[str]], sizes: dict[str, int], imported: Path | None) -> None:
    """Write the index of several files; the imported one, byte for byte, where it still holds."""
    weight_map = {name: file for file, names in files.items() for name in names}
    total = sum(sizes.values())
    if imported is not None and (original := imported / HF_FOLDER / INDEX).is_file():
        content = json.loads(original.read_text(encoding="utf-8"))
        if content["weight_map"] == weight_map and content.get("metadata", {}).get("total_size") in (None, total):
            shutil.copyfile(original, folder / INDEX)
            return
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def write_side_files(plan: ExportPlan, folder: Path, *, dtype: str) -> None:
    """Write config, generation config, tokenizer and the record for the evaluation."""
    base: dict[str, Any] = {}
    generation: dict[str, Any] = {}
    if plan.source is not None:
        kept = plan.source[0] / HF_FOLDER
        base = read_config(kept)
        for path in kept.iterdir():
            if path.name not in ("config.json", INDEX):
                shutil.copyfile(path, folder / path.name)
        if (folder / GENERATION).is_file():
            generation = json.loads((folder / GENERATION).read_text(encoding="utf-8"))
    config = config_from_spec(plan.spec, base=base, dtype=dtype)
    if plan.data.folder is not None and plan.data.replaces:
        for path in sorted(plan.data.folder.iterdir()):
            if path.is_file() and path.name not in ("config.json", GENERATION):
                shutil.copyfile(path, folder / path.name)
    info = plan.data.info
    if info is not None and not base:
        ids = {"bos_token_id": info.bos_id, "eos_token_id": info.eos_id, "pad_token_id": info.pad_id}
        config |= ids
        generation |= {name: value for name, value in ids.items() if value is not None}
    if plan.chat is not None:
        write_chat_format(folder, plan.chat)
    if plan.chat is not None and plan.chat.ends:
        before = generation.get("eos_token_id", config.get("eos_token_id"))
        generation["eos_token_id"] = generation_ends(plan.chat, before)
        config["eos_token_id"] = plan.chat.ends[0]
    if config == base:
        assert plan.source is not None
        shutil.copyfile(plan.source[0] / HF_FOLDER / "config.json", folder / "config.json")
    else:
        write_json(folder / "config.json", config)
    if suppressed := _suppressed(plan):
        known = generation.get("suppress_tokens") or []
        generation["suppress_tokens"] = sorted({*known, *suppressed})
    if suppressed or plan.chat is not None:
        write_json(folder / GENERATION, generation)
    record = evaluation_record(plan.checkpoint, plan.spec, plan.data)
    if plan.chat is not None and plan.chat.eos_token is not None:
        written = load_tokenizer(folder).info
        record |= {"tokenizer_fingerprint": written.fingerprint, "eos_token_id": written.eos_id}
    write_json(folder / EVAL_RECORD, record)


def _suppressed(plan: ExportPlan) -> list[int]:
    """Return the ids that must never be generated: [MASK], and rows that no token has."""
    mask = [] if plan.data.mask_id is None else [plan.data.mask_id]
    if not plan.data.vocab_size:
        return mask
    own = max(plan.data.vocab_size, plan.source[1].hf_rows if plan.source else 0)
    return mask + list(range(own, plan.spec.vocab_rows))
