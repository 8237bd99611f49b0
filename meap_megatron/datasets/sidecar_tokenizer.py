"""What Megatron's datasets ask of a tokenizer, answered from the sidecar: training never loads a tokenizer."""

from collections import OrderedDict

from meap_megatron.indexed.sidecar import TokenizerInfo

NO_TOKEN = -1  # equal to no id in the data


class DatasetTokenizer:
    """The ids of a tokenizer, without the tokenizer."""

    def __init__(self, info: TokenizerInfo) -> None:
        self.info = info
        self.fingerprint = info.fingerprint
        self.vocab_size = info.vocab_size
        """Highest id + 1, the mask token included; the model may pad it further."""
        self.bos = NO_TOKEN if info.bos_id is None else info.bos_id
        self.eod = self.eos = NO_TOKEN if info.eos_id is None else info.eos_id
        """Megatron has two names for it."""
        self.mask = self.pad = info.mask_id
        """`pad` is the id with which Megatron fills a partial sample.

        Megatron takes every position that holds this id for padding: it sets the input to 0 and drops the loss. The
        id must therefore never be in the data. A tokenizer's own pad token is often EOS or an id that the text can
        produce, and then real tokens silently lose their loss. The mask id is the one id that no document holds
        (`meap verify` checks it), and inputs are masked only after Megatron has looked for padding.
        """

    @property
    def unique_identifiers(self) -> OrderedDict[str, str | int]:
        """Go into the key of Megatron's index cache; no path among them."""
        return OrderedDict(
            {"class": type(self).__name__, "fingerprint": self.fingerprint, "eod": self.eod, "pad": self.pad}
        )

    def __repr__(self) -> str:
        return f"DatasetTokenizer({self.fingerprint[:7]}, vocab_size={self.vocab_size})"
