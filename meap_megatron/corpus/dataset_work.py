"""What a kind of dataset, text or conversations, adds to a preprocessing run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meap_megatron.corpus import hub
from meap_megatron.corpus.concatenate import Joining
from meap_megatron.corpus.encode import libraries
from meap_megatron.corpus.inputs import InputFile, find_inputs, refuse_skipped
from meap_megatron.corpus.settings import RunConfig
from meap_megatron.corpus.shard import Shard, ShardEncoder, ShardResult, part_files, plan_shards, shard_bytes_for
from meap_megatron.corpus.work_folder import plan_hash
from meap_megatron.corpus.workers import Numbered
from meap_megatron.corpus.write_dataset import publish
from meap_megatron.indexed.idx_header import optimal_dtype
from meap_megatron.indexed.pair import length_blocks, one_sequence_per_document
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.tokenizer.load import CorpusTokenizer, load_tokenizer, save_tokenizer

SAMPLE_SHARDS = 16


class PreprocessingWork[R: ShardResult](ABC):
    """What a kind of dataset adds to a run.

    Attributes:
        config: what was asked for.
        tokenizer: the extended tokenizer.
        inputs: the files, and what is not read.
        shards: (number, chunks) of this run.
        result_type: what a shard gives.
        plan: all that decides the output's bytes; resume compares it.
        policy: the sidecar's kind, add_bos and add_eos.
        joins_in_order: the .bin is all shards in their order, so that they can be joined as they are finished.
        joining: joins them, when `joins_in_order`; given by the run.
        unit: what the output consists of, for the message that there is none.
    """

    unit: str
    config: RunConfig
    shards: list[Numbered]
    result_type: type[R]
    plan: dict[str, Any]
    policy: dict[str, Any]
    joins_in_order = True
    joining: Joining | None = None

    def __init__(self, config: RunConfig, *, is_record: Callable[[dict[str, Any]], bool], text: bool = True) -> None:
        """Look for the inputs and load the tokenizer; `cut` follows when everything else was checked."""
        self.inputs = find_inputs(config.inputs, is_record=is_record, text=text)
        if config.strict:
            refuse_skipped(self.inputs.skipped)
        self.tokenizer = load_tokenizer(
            config.tokenizer, mask_token=config.mask_token, bos_token=config.bos_token, eos_token=config.eos_token
        )

    def cut(self, config: RunConfig, **plan: Any) -> None:
        """Cut the inputs into shards, and keep those of the i-th of n parts; `plan` is what the kind adds to the plan."""
        files, (part, parts) = self.inputs.files, config.shard or (0, 1)
        size = config.shard_bytes or shard_bytes_for(files, parts=parts)
        numbered = list(enumerate(plan_shards(files, size)))
        self.shards = numbered[len(numbered) * part // parts : len(numbered) * (part + 1) // parts]
        self.plan = {
            "inputs": [[_named(file), file.size, file.modified] for file in files],
            "requested encoder": config.encoder,
            "shard": None if config.shard is None else list(config.shard),
            "shard_bytes": size,
            "tokenizer": self.tokenizer.info.fingerprint,
            "dtype": optimal_dtype(self.tokenizer.info.vocab_size),
            **plan,
        }

    def encoding_tokenizer(self) -> CorpusTokenizer:
        """Return the tokenizer that the encoders are built from."""
        return self.tokenizer

    def sample(self) -> list[bytes]:
        """Return texts of shards that are spread over the input, for the comparison of the encoders."""
        step = max(1, len(self.shards) // SAMPLE_SHARDS)
        return [text for _, shard in self.shards[::step] for text in self.sample_of(shard)]

    @abstractmethod
    def sample_of(self, shard: Shard) -> list[bytes]:
        """Return texts of a shard."""

    def save_tokenizer(self, folder: Path) -> None:
        """Write the extended tokenizer."""
        save_tokenizer(self.tokenizer, folder)

    @abstractmethod
    def shard_encoder(self, folder: Path, encoder: str) -> ShardEncoder:
        """Return what encodes the shards into a work folder."""

    def upcoming(self, waiting: list[Numbered], results: dict[int, R]) -> Iterator[Numbered]:
        """Give the shards to encode, each when a worker is free for it.

        Args:
            waiting: shards without a result at the start.
            results: results so far; grows while the shards are given.
        """
        del results
        yield from waiting

    def report(self, results: list[R]) -> None:  # noqa: B027 (most have nothing to say)
        """Say on stderr what looks wrong."""

    @abstractmethod
    def outcome(self, results: list[R]) -> tuple[str, int, int]:
        """Return what was read is called, how many of it, and how many were truncated."""

    @property
    def dropped_texts(self) -> dict[str, str]:
        """What the kinds of rows are called that are dropped."""
        return {}

    def publish(
        self,
        folder: Path,
        results: list[R],
        encoder: str,
        *,
        files: list[tuple[Path, Path]] | None = None,
        num_documents: int | None = None,
        role_sources: list[Path] | None = None,
        **fields: Any,
    ) -> Sidecar:
        """Put the shards of the work folder under the final names.

        Args:
            folder: the work folder.
            results: of the shards, in their order.
            encoder: that was used.
            files: pairs of files (token ids, lengths) to join; None for those of the shards.
            num_documents: in these files; None for those of the results.
            role_sources: files with the roles of the tokens; None for text.
            fields: more of the sidecar.
        """
        if files is None:
            files = [part_files(folder, result.shard) for result in results]
        if num_documents is None:
            num_documents = sum(result.num_documents for result in results)
        return publish(
            self.config.prefix,
            sources=self.joining or [tokens for tokens, _ in files],
            role_sources=role_sources,
            lengths=lambda: length_blocks(lengths for _, lengths in files),
            document_indices=lambda: one_sequence_per_document(num_documents),
            num_sequences=num_documents,
            num_documents=num_documents,
            dtype=self.plan["dtype"],
            tokenizer=self.tokenizer.info,
            save_tokenizer=self.save_tokenizer,
            fields={"libraries": libraries(encoder), "plan": plan_hash(self.plan), **self.policy, **fields},
        )


def _named(file: InputFile) -> str:
    """Return where an input is, wherever `--resume` is called."""
    return file.path if file.kind == hub.KIND else str(Path(file.path).absolute())
