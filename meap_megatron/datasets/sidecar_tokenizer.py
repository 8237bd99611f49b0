"""What Megatron's datasets ask of a tokenizer, answered from the sidecar: training never loads a tokenizer."""

from collections import OrderedDict

from meap_megatron.indexed.sidecar import TokenizerInfo

NO_TOKEN = -1  # equal to no id in the data


class DatasetTokenizer:
    """The ids of a tokenizer, without the tokenizer."""

    def __init__(self, info: TokenizerInfo) -> None:
        self.info = info

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the tokenizer's content."""
        return self.info.fingerprint

    @property
    def vocab_size(self) -> int:
        """Highest id + 1, the mask token included; the model may pad it further."""
        return self.info.vocab_size

    @property
    def mask(self) -> int:
        """Id of [MASK]."""
        return self.info.mask_id

    @property
    def bos(self) -> int:
        """Id of the token that opens a document, or -1."""
        return NO_TOKEN if self.info.bos_id is None else self.info.bos_id

    @property
    def eod(self) -> int:
        """Id of the token that ends a document, or -1 when the tokenizer has none."""
        return NO_TOKEN if self.info.eos_id is None else self.info.eos_id

    @property
    def eos(self) -> int:
        """The same as `eod`, Megatron's other name for it."""
        return self.eod

    @property
    def pad(self) -> int:
        """Id with which Megatron fills a partial sample.

        Megatron takes every position that holds this id for padding: it sets the input to 0 and drops the loss. The
        id must therefore never be in the data. A tokenizer's own pad token is often EOS or an id that the text can
        produce, and then real tokens silently lose their loss. The mask id is the one id that no document holds
        (`meap verify` checks it), and inputs are masked only after Megatron has looked for padding.
        """
        return self.info.mask_id

    @property
    def unique_identifiers(self) -> OrderedDict[str, str | int]:
        """Go into the key of Megatron's index cache; no path among them."""
        return OrderedDict(
            {"class": type(self).__name__, "fingerprint": self.fingerprint, "eod": self.eod, "pad": self.pad}
        )

    def __repr__(self) -> str:
        return f"DatasetTokenizer({self.fingerprint[:7]}, vocab_size={self.vocab_size})"
