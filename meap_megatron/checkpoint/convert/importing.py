"""Hugging Face -> Megatron: plan and check everything, then write one tensor after the other."""

import dataclasses
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from meap_megatron.checkpoint.convert import recipes
from meap_megatron.checkpoint.convert import tensors as ops
from meap_megatron.checkpoint.convert.convert_settings import ImportSettings
from meap_megatron.checkpoint.convert.families import HEAD, TensorEntry, layer_entries, top_entries
from meap_megatron.checkpoint.convert.hf_config import read_config, spec_from_config
from meap_megatron.checkpoint.convert.hf_files import HfTensors, open_folder
from meap_megatron.checkpoint.convert.mask_token import MaskRow, parse_init
from meap_megatron.checkpoint.convert.megatron_config import checkpoint_args
from meap_megatron.checkpoint.convert.megatron_files import LAYERS, Chunk, write_checkpoint
from meap_megatron.checkpoint.convert.record import (
    HF_FOLDER,
    TOKENIZER_FOLDER,
    ImportRecord,
    side_files,
    write_record,
)
from meap_megatron.checkpoint.convert.source_checks import check_adapter, check_tensors, known_ids, without_rows
from meap_megatron.checkpoint.convert.spec import ModelSpec, check_layout, padded_rows
from meap_megatron.checkpoint.convert.tokenizer_check import differences
from meap_megatron.checkpoint.folder import RELEASE, TRACKER
from meap_megatron.checkpoint.manifest import library_versions
from meap_megatron.errors import RunError, UserError
from meap_megatron.tokenizer.load import CorpusTokenizer, load_tokenizer, save_tokenizer

TABLE_BYTES = 64 * 2**20  # of one chunk of the embedding or the head
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """An import that was checked and may be written.

    Attributes:
        settings: what the user asked for.
        hf: the source's tensors.
        hf_spec: the model as it is.
        spec: the model as it will be; more rows at most.
        tokenizer: the tokenizer with [MASK], or None.
        mask: how its row is made, or None.
    """

    settings: ImportSettings
    hf: HfTensors
    hf_spec: ModelSpec
    spec: ModelSpec
    tokenizer: CorpusTokenizer | None
    mask: MaskRow | None

    @property
    def vocab_size(self) -> int:
        """Ids in use."""
        used = self.tokenizer.info.vocab_size if self.tokenizer and self.mask else 0
        return max(self.hf_spec.vocab_rows, used)


def plan_import(settings: ImportSettings) -> ImportPlan:
    """Read headers and config, and check all of it; nothing is written.

    Raises:
        UserError: the model cannot be converted; says what to do.
    """
    source = settings.source
    if settings.multiple < 1 or settings.tensor_parallel < 1 or settings.pipeline_parallel < 1:
        raise UserError("--make-vocab-size-divisible-by and parallel sizes must be at least 1")
    hf_spec = spec_from_config(
        read_config(source), source=str(source / "config.json"), allowed=settings.allowed_fields
    )
    check_layout(hf_spec, tensor_parallel=settings.tensor_parallel, pipeline_parallel=settings.pipeline_parallel)
    check_adapter(source, ignore=settings.ignore_adapter)
    hf = open_folder(source)
    check_tensors(hf, hf_spec, source=source)
    tokenizer = _tokenizer(settings, hf_spec)
    mask = _mask_row(settings, tokenizer, hf_spec) if settings.add_mask_token else None
    size = hf_spec.vocab_rows if mask is None else max(hf_spec.vocab_rows, mask.mask_id + 1)
    rows = padded_rows(size, multiple=settings.multiple, tensor_parallel=settings.tensor_parallel)
    return ImportPlan(
        settings=settings, hf=hf, hf_spec=hf_spec, spec=hf_spec.with_rows(rows), tokenizer=tokenizer, mask=mask
    )


def _tokenizer(settings: ImportSettings, spec: ModelSpec) -> CorpusTokenizer | None:
    folder = settings.tokenizer or settings.source
    if settings.tokenizer is None and not any((folder / name).is_file() for name in TOKENIZER_FILES[:3]):
        if settings.add_mask_token:
            raise UserError(
                f"{folder} holds no tokenizer to add {settings.mask_token} to", fix="name one with --tokenizer"
            )
        return None
    tokenizer = load_tokenizer(folder, mask_token=settings.mask_token)
    if found := without_rows(tokenizer, rows=spec.vocab_rows, folder=folder):
        raise UserError(
            f"tokenizer {folder} gives ids up to {known_ids(tokenizer) - 1:,}, but the model has {spec.vocab_rows:,} rows "
            f"of embedding; {found[0]}",
            fix=found[1],
        )
    return tokenizer


def _mask_row(settings: ImportSettings, tokenizer: CorpusTokenizer | None, spec: ModelSpec) -> MaskRow:
    from tokenizers import Tokenizer

    assert tokenizer is not None
    kind, token = parse_init(settings.mask_token_init)
    token_id = None
    if token is not None:
        token_id = Tokenizer.from_str(tokenizer.definition).token_to_id(token)
        if token_id is None or token_id >= spec.vocab_rows:
            raise UserError(
                f"--mask-token-init token:{token}: the tokenizer has no token {token!r} with a row",
                fix="name one that it has",
            )
    known = min(known_ids(tokenizer), spec.vocab_rows)
    return MaskRow(mask_id=tokenizer.info.mask_id, known=known, kind=kind, token_id=token_id, seed=settings.seed)


def chunks(plan: ImportPlan) -> Iterator[Chunk]:
    """Yield every piece of the checkpoint, top to bottom; each is read when it is written."""
    spec, hf = plan.spec, plan.hf
    for entry in top_entries(spec):
        if len(shape := entry.shape(spec)) == 2:
            yield from _table_chunks(plan, entry)
        else:
            name = entry.hf[0]
            yield Chunk(
                name=entry.megatron,
                shape=shape,
                offsets=(0,),
                sizes=shape,
                dtype=hf.places[name].dtype,
                make=partial(hf.read, name),
            )
    for layer in range(spec.num_layers):
        for entry in layer_entries(spec):
            shape = entry.shape(spec)
            yield Chunk(
                name=LAYERS + entry.megatron,
                shape=(spec.num_layers, *shape),
                offsets=(layer, *(0,) * len(shape)),
                sizes=(1, *shape),
                dtype=hf.places[f"model.layers.{layer}.{entry.hf[0]}"].dtype,
                make=partial(layer_tensor, plan, entry, layer),
            )


def layer_tensor(plan: ImportPlan, entry: TensorEntry, layer: int) -> torch.Tensor:
    """Return one layer's tensor as Megatron has it, [1, ...]."""
    parts = [plan.hf.read(f"model.layers.{layer}.{name}") for name in entry.hf]
    if entry.by_group:
        return ops.fuse_qkv(*parts, groups=plan.spec.num_query_groups)[None]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]


def _table_chunks(plan: ImportPlan, entry: TensorEntry) -> Iterator[Chunk]:
    """Yield the embedding or the head in blocks of rows, with the row of [MASK] and zeros as padding."""
    place = plan.hf.places[entry.hf[0]]
    rows, width = entry.shape(plan.spec)
    block = max(1, TABLE_BYTES // (width * place.dtype.itemsize))
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        yield Chunk(
            name=entry.megatron,
            shape=(rows, width),
            offsets=(start, 0),
            sizes=(stop - start, width),
            dtype=place.dtype,
            make=partial(_table_block, plan, entry, start, stop),
        )


def _table_block(plan: ImportPlan, entry: TensorEntry, start: int, stop: int) -> torch.Tensor:
    name = entry.hf[0]
    have = plan.hf_spec.vocab_rows
    block = torch.zeros(stop - start, plan.spec.hidden_size, dtype=plan.hf.places[name].dtype)
    if start < have:
        block[: min(stop, have) - start] = plan.hf.read(name, rows=(start, min(stop, have)))
    if plan.mask is not None and start <= plan.mask.mask_id < stop:
        row = plan.mask.make(lambda a, b: plan.hf.read(name, rows=(a, b)), table=int(entry is HEAD))
        block[plan.mask.mask_id - start] = row
    return block


def write_import(plan: ImportPlan, folder: Path) -> None:
    """Write an import into an existing, empty folder."""
    spec = plan.spec
    write_checkpoint(
        folder / RELEASE,
        chunks(plan),
        args=checkpoint_args(spec, vocab_size=plan.vocab_size),
        num_layers=spec.num_layers,
    )
    (folder / TRACKER).write_text(RELEASE)
    (folder / HF_FOLDER).mkdir()
    for path in side_files(plan.settings.source):
        shutil.copy2(path, folder / HF_FOLDER / path.name)
    if plan.mask is not None and plan.tokenizer is not None:
        save_tokenizer(plan.tokenizer, folder / TOKENIZER_FOLDER)
        _check_tokenizer(plan.settings.tokenizer or plan.settings.source, folder / TOKENIZER_FOLDER)
    tokenizer = "OUT/tokenizer" if plan.mask is not None else "TOKENIZER"
    for name, text in recipes.files(spec, model=model_name(plan.settings.source), tokenizer=tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")
    write_record(
        folder,
        ImportRecord(
            source=str(plan.settings.origin or plan.settings.source),
            model=dataclasses.asdict(spec),
            hf_rows=plan.hf_spec.vocab_rows,
            vocab_size=plan.vocab_size,
            mask_id=None if plan.mask is None else plan.mask.mask_id,
            files=plan.hf.files,
            metadata=plan.hf.metadata,
            libraries=library_versions(),
            tokenizer=None if plan.tokenizer is None else plan.tokenizer.info.fingerprint,
        ),
    )


def _check_tokenizer(original: Path, saved: Path) -> None:
    """Compare a saved tokenizer with the one it was made from, as `transformers` loads both.

    Raises:
        RunError: they differ in more than [MASK].
    """
    if original.is_dir() and (found := list(differences(original, saved))):
        raise RunError(f"the tokenizer with [MASK] is not the one of {original}: {'; '.join(found)}")


def model_name(source: Path) -> str:
    """Return what a model is called: the name of its folder."""
    return source.resolve().name or "model"
