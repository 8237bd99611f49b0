"""What a preprocessing run can be asked to do."""

import dataclasses
from pathlib import Path

from meap_megatron.corpus.encode import ENCODERS
from meap_megatron.corpus.upsample.selection import Upsample
from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import MASK_TOKEN


def check_output(prefix: str | Path) -> None:
    """Refuse a folder as the prefix of a dataset: its files would be hidden ones (`data/.bin`).

    Raises:
        UserError: the prefix ends in a slash, in `.` or `..`, is empty, or is an existing folder.
    """
    if str(prefix).rpartition("/")[2] in ("", ".", "..") or Path(prefix).is_dir():
        raise UserError(
            f"the output {str(prefix)!r} is a folder; it must be a prefix, the start of the files' names",
            fix=f"take {str(Path(prefix) / 'NAME')!r} for NAME.bin and NAME.idx in it",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every preprocessing run can be asked.

    Attributes:
        inputs: files, folders and globs.
        output: prefix of the dataset; no folder.
        tokenizer: tokenizer folder, tokenizer.json or SentencePiece model.
        mask_token: text of the mask token.
        add_bos: open documents with BOS; None does as the tokenizer does with a text.
        bos_token: text of the BOS token when the tokenizer does not say which it is; documents then open with it.
        eos_token: the same for EOS.
        workers: processes, None for the available CPUs.
        shard: (i, n) does the i-th of n parts (0 <= i < n) under `OUTPUT.shard-i-of-n`.
        shard_bytes: size of the unit that is finished and recorded, None for a size made from the input.
        resume: continue an unfinished run.
        overwrite: replace what is there.
        max_bad_lines: bad lines that are skipped without failing.
        strict: refuse to skip files, to drop rows, and keys that are not used.
        encoder: "auto", "gigatoken" or "tokenizers".
    """

    inputs: list[str]
    output: str
    tokenizer: str
    mask_token: str = MASK_TOKEN
    add_bos: bool | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    workers: int | None = None
    shard: tuple[int, int] | None = None
    shard_bytes: int | None = None
    resume: bool = False
    overwrite: bool = False
    max_bad_lines: int = 0
    strict: bool = False
    encoder: str = "auto"

    def __post_init__(self) -> None:
        check_output(self.output)
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise UserError(
                f"--shard {self.shard[0]}/{self.shard[1]}: i/n needs 0 <= i < n; the shards of n are 0 to n-1"
            )
        for name, value, least in (
            ("--workers", self.workers, 1),
            ("--shard-size", self.shard_bytes, 1),
            ("--max-bad-lines", self.max_bad_lines, 0),
        ):
            if value is not None and value < least:
                raise UserError(f"{name} is {value}, it must be at least {least}")
        if self.encoder not in ENCODERS:
            raise UserError(f"--encoder is {self.encoder!r}, it is one of {', '.join(ENCODERS)}")

    @property
    def prefix(self) -> str:
        """The prefix that this run writes."""
        return self.output if self.shard is None else f"{self.output}.shard-{self.shard[0]}-of-{self.shard[1]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessConfig(RunConfig):
    """What `meap preprocess text` is asked to do.

    Attributes:
        json_key: key (JSON lines) or column (parquet) of the text.
        add_eos: end every document with EOS.
        upsample: take only a part, with more of the tokens in long documents; None takes all.
    """

    json_key: str = "text"
    add_eos: bool = True
    upsample: Upsample | None = None
