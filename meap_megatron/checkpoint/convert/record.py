"""What an import leaves beside the weights, so that an export can restore everything that Megatron does not keep.

OUT/latest_checkpointed_iteration.txt   "release"
OUT/release/                            the checkpoint
OUT/model.yaml                          a recipe's first lines: `extends: OUT/model.yaml`
OUT/sft_meap.yaml, sft_ntp.yaml, continue.yaml   recipes that need nothing but data_path
OUT/meap_import.json                    this record
OUT/hf/                                 config.json, generation_config.json, tokenizer: everything but weights
OUT/tokenizer/                          the tokenizer with [MASK], if it was added
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from meap_megatron.atomic import replace_text
from meap_megatron.checkpoint.convert.spec import ModelSpec
from meap_megatron.errors import UserError

RECORD = "meap_import.json"
HF_FOLDER = "hf"
TOKENIZER_FOLDER = "tokenizer"
ADAPTER = "adapter_config.json"
WEIGHT_ENDINGS = tuple(
    ".safetensors .bin .pt .pth .gguf .onnx .onnx_data .msgpack .h5 .ckpt .ot .npz .tflite .mlmodel".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportRecord:
    """The content of `meap_import.json`.

    Attributes:
        source: the Hugging Face folder.
        model: the spec, with the rows of the checkpoint.
        hf_rows: rows of the vocabulary in the Hugging Face model.
        vocab_size: ids in use, [MASK] included if it was added; `hf_rows` without a tokenizer.
        mask_id: id of [MASK], or None if it was not added.
        files: safetensors file -> tensors in it.
        metadata: safetensors file -> metadata of its header.
        libraries: library -> version.
        tokenizer: fingerprint of its tokenizer with [MASK], as sidecars have it; None: it had none, or an earlier version
            wrote this file.
        format_version: version of this layout.
    """

    source: str
    model: dict[str, Any]
    hf_rows: int
    vocab_size: int
    mask_id: int | None
    files: dict[str, list[str]]
    metadata: dict[str, dict[str, str]]
    libraries: dict[str, str]
    tokenizer: str | None = None
    format_version: int = 1

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return ModelSpec.from_record(self.model)


def write_record(folder: Path, record: ImportRecord) -> None:
    """Write the record of an import."""
    replace_text(folder / RECORD, json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def read_record(folder: Path) -> ImportRecord | None:
    """Return the record in a folder, or None if there is none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / RECORD
    try:
        return ImportRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="import the model again") from None


def origin(checkpoint: Path, args: argparse.Namespace, *, named: Path | None) -> tuple[Path, ImportRecord] | None:
    """Return the import that a checkpoint's weights started from, and its folder; None if it started from nothing.

    Args:
        args: its arguments, whose `pretrained_checkpoint` and `load` name where the run started.
        named: the folder that the user names, which then must hold a record.
    """
    if named is not None:
        record = read_record(named)
        if record is None:
            raise UserError(f"{named} was not written by `meap convert import`: it has no {RECORD}")
        return named, record
    places = [
        checkpoint.parent,
        *(Path(p) for n in ("pretrained_checkpoint", "load") if (p := getattr(args, n, None))),
    ]
    for place in places:
        if (record := read_record(place)) is not None:
            return place, record
    started = getattr(args, "pretrained_checkpoint", None)
    if started is not None and not Path(started).exists():
        print(
            f"warning: the run started from {started}, which is not there: config.json is made from scratch, without what "
            "the imported model had beside its weights (sampling settings, end tokens, model card); --like FOLDER names a "
            "moved import",
            file=sys.stderr,
        )
    return None


def side_files(folder: Path) -> list[Path]:
    """Return the files of a Hugging Face folder that hold no weights and do not belong to an adapter beside them."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.endswith(WEIGHT_ENDINGS) and path.name != ADAPTER
    )
