"""Documents of text to ids, in shards: what a preprocessing run needs to know of them."""

from pathlib import Path

from meap_megatron.corpus.borders import border_ids
from meap_megatron.corpus.dataset_work import PreprocessingWork
from meap_megatron.corpus.readers import ChunkReader
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.shard import Shard, ShardResult
from meap_megatron.corpus.terminal import say
from meap_megatron.corpus.text_shard import TextEncoder

SAMPLE_BYTES, SAMPLE_TEXT_BYTES = 2**16, 2**13  # of text per sampled shard and per document


class TextWork[R: ShardResult](PreprocessingWork[R]):
    """Documents of text: each becomes BOS + ids + EOS."""

    unit = "document with text"
    result_type: type[R] = ShardResult  # type: ignore[assignment]

    def __init__(self, config: PreprocessConfig) -> None:
        super().__init__(config, is_record=lambda record: config.json_key in record)
        self.config: PreprocessConfig = config
        self.bos_id, self.eos_id = border_ids(
            self.tokenizer, add_bos=config.add_bos, add_eos=config.add_eos, source=config.tokenizer
        )
        borders = {"add_bos": self.bos_id is not None, "add_eos": config.add_eos}
        self.policy = {"kind": "text", **borders}
        self.cut(config, json_key=config.json_key, **borders)

    def sample_of(self, shard: Shard) -> list[bytes]:
        """Return starts of documents; a character is not cut in two."""
        texts: list[bytes] = []
        size = 0
        for chunk in shard:
            for _, text in ChunkReader(chunk, key=self.config.json_key):
                if isinstance(text, bytes):
                    texts.append(text[:SAMPLE_TEXT_BYTES].decode("utf-8", "ignore").encode())
                    size += len(texts[-1])
                if size >= SAMPLE_BYTES:
                    return texts
        return texts

    def shard_encoder(self, folder: Path, encoder: str) -> TextEncoder:
        """Return what encodes the shards into a work folder."""
        return TextEncoder(
            folder=str(folder),
            encoder_name=encoder,
            config=self.config,
            info=self.tokenizer.info,
            special_ids=self.tokenizer.special_ids,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            bos_text=self.tokenizer.bos_token,
        )

    def report(self, results: list[R]) -> None:
        """Say where a BOS seems to be doubled."""
        if doubled := sum(result.num_bos_text for result in results):
            place = next(result.bos_text_place for result in results if result.bos_text_place)
            say(
                f"warning: {doubled} documents begin with the characters {self.tokenizer.bos_token!r} (first: {place}): a "
                f"doubled BOS? The characters are encoded as plain text; remove them from the input"
            )

    def outcome(self, results: list[R]) -> tuple[str, int, int]:
        """Return how many documents were read."""
        lost = sum(result.num_bad + sum(count for count, *_ in result.dropped.values()) for result in results)
        read = lost + sum(result.num_documents for result in results)
        return "documents", read, 0
