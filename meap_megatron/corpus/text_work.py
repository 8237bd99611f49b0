"""Documents of text to ids, in shards: what a preprocessing run needs to know of them."""

import itertools
import sys
from pathlib import Path
from typing import Any

from meap_megatron.corpus.borders import border_ids
from meap_megatron.corpus.encode import libraries
from meap_megatron.corpus.inputs import find_inputs, refuse_skipped
from meap_megatron.corpus.pipeline import PreprocessingWork, base_plan, own_shards
from meap_megatron.corpus.readers import PieceReader
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.shard import Shard, ShardJob, ShardResult, part_files, plan_shards, shard_bytes_for
from meap_megatron.corpus.work_folder import plan_hash
from meap_megatron.corpus.write_dataset import publish
from meap_megatron.indexed.pair import length_blocks, one_sequence_per_document
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.tokenizer.load import load_tokenizer, save_tokenizer

SAMPLE_SHARDS = 16
SAMPLE_BYTES, SAMPLE_TEXT_BYTES = 2**16, 2**13  # of text per sampled shard and per document


class TextWork[R: ShardResult](PreprocessingWork[R]):
    """Documents of text: each becomes BOS + ids + EOS."""

    unit = "document with text"
    result_type: type[R] = ShardResult  # type: ignore[assignment]
    joins_in_order = True

    def __init__(self, config: PreprocessConfig) -> None:
        self.config: PreprocessConfig = config
        self.inputs = find_inputs(config.inputs, is_record=lambda record: config.json_key in record)
        if config.strict:
            refuse_skipped(self.inputs.skipped)
        self.tokenizer = load_tokenizer(
            config.tokenizer, mask_token=config.mask_token, bos_token=config.bos_token, eos_token=config.eos_token
        )
        self.bos_id, self.eos_id = border_ids(
            self.tokenizer, add_bos=config.add_bos, add_eos=config.add_eos, source=config.tokenizer
        )
        files = self.inputs.files
        size = config.shard_bytes or shard_bytes_for(files, parts=config.shard[1] if config.shard else 1)
        self.shards = own_shards(plan_shards(files, size), config.shard)
        self.plan = {
            **base_plan(config, self.tokenizer, files, size),
            "json_key": config.json_key,
            "add_bos": self.bos_id is not None,
            "add_eos": config.add_eos,
        }

    def sample(self) -> list[bytes]:
        """Return starts of documents."""
        return _sample([shard for _, shard in self.shards], self.config)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the extended tokenizer."""
        save_tokenizer(self.tokenizer, folder)

    def job(self, folder: Path, encoder: str) -> ShardJob:
        """Return the job of the workers."""
        return ShardJob(
            folder=str(folder),
            definition_file=str(folder / "tokenizer" / "tokenizer.json"),
            encoder=encoder,
            key=self.config.json_key,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            special_ids=self.tokenizer.special_ids,
            vocab_size=self.tokenizer.info.vocab_size,
            bos_text=self.tokenizer.bos_token,
            dtype=self.plan["dtype"],
            max_bad_lines=self.config.max_bad_lines,
        )

    def report(self, results: list[R]) -> None:
        """Say where a BOS seems to be doubled."""
        if doubled := sum(result.num_bos_text for result in results):
            place = next(result.bos_text_place for result in results if result.bos_text_place)
            print(
                f"meap: warning: {doubled} documents begin with the characters {self.tokenizer.bos_token!r} "
                f"(first: {place}): a doubled BOS? The characters are encoded as plain text; remove them from the "
                f"input",
                file=sys.stderr,
            )

    def outcome(self, results: list[R], kept: int) -> dict[str, Any]:
        """Return how many documents were read and kept."""
        lost = sum(result.num_bad + sum(count for count, *_ in result.dropped.values()) for result in results)
        read = lost + sum(result.num_documents for result in results)
        return {"unit": "documents", "read": read, "kept": kept, "truncated": 0}

    def publish(self, folder: Path, results: list[R], encoder: str) -> Sidecar:
        """Join the shards."""
        num_documents = sum(result.num_documents for result in results)
        return self.join([part_files(folder, result.shard) for result in results], num_documents, encoder)

    def join(self, files: list[tuple[Path, Path]], num_documents: int, encoder: str, **fields: Any) -> Sidecar:
        """Join pairs of files (token ids, lengths) under the final names; `fields` go into the sidecar."""
        return publish(
            self.config.prefix,
            sources=self.joining or [tokens for tokens, _ in files],
            lengths=lambda: length_blocks(lengths for _, lengths in files),
            document_indices=lambda: one_sequence_per_document(num_documents),
            num_sequences=num_documents,
            num_documents=num_documents,
            dtype=self.plan["dtype"],
            tokenizer=self.tokenizer.info,
            save_tokenizer=self.save_tokenizer,
            fields={
                "kind": "text",
                "add_bos": self.bos_id is not None,
                "add_eos": self.eos_id is not None,
                "libraries": libraries(encoder),
                "plan": plan_hash(self.plan),
                **fields,
            },
        )


def _sample(shards: list[Shard], config: PreprocessConfig) -> list[bytes]:
    """Return starts of documents from up to 16 shards spread over the input."""
    texts: list[bytes] = []
    step = max(1, len(shards) // SAMPLE_SHARDS)
    for shard in itertools.islice(shards, 0, None, step):
        size = 0
        for piece in shard:
            for _, text in PieceReader(piece, key=config.json_key):
                if isinstance(text, bytes):
                    # The start of a long document; a character may not be cut in two.
                    texts.append(text[:SAMPLE_TEXT_BYTES].decode("utf-8", "ignore").encode())
                    size += len(texts[-1])
                if size >= SAMPLE_BYTES:
                    break
            if size >= SAMPLE_BYTES:
                break
    return texts
