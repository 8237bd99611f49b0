"""Raw text to an indexed dataset: plan, encode in shards, publish. The job of `meap preprocess text`."""

from meap_megatron.corpus.pipeline import run_work
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.text_work import TextWork
from meap_megatron.corpus.upsample.work import UpsampleWork
from meap_megatron.indexed.sidecar import Sidecar


def preprocess(config: PreprocessConfig) -> Sidecar:
    """Make the dataset of `config.prefix`.

    Returns:
        The sidecar of the finished dataset.

    Raises:
        UserError: an input, the tokenizer, the output or a line breaks a rule; nothing is left under final names.
        RunError: a worker died or the disk is full; the same command with `resume` continues.
    """
    if config.upsample is not None:
        return run_work(UpsampleWork(config, config.upsample))
    return run_work(TextWork(config))
