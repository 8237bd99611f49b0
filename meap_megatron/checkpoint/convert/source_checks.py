"""Whether a Hugging Face folder is what its config.json says: tensors, a second head, an adapter, rows for all tokens."""

from operator import itemgetter
from pathlib import Path

import torch

from meap_megatron.checkpoint.convert.families import EMBEDDING, HEAD, IGNORED_HF, hf_shapes, layer_entries
from meap_megatron.checkpoint.convert.hf_files import HfTensors
from meap_megatron.checkpoint.convert.mask_token import BLOCK
from meap_megatron.checkpoint.convert.record import ADAPTER
from meap_megatron.checkpoint.convert.spec import ModelSpec
from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import CorpusTokenizer


def check_tensors(hf: HfTensors, spec: ModelSpec, *, source: Path) -> None:
    """Compare the tensors of a folder with those that the model needs.

    Raises:
        UserError: one is missing, unexpected, of another shape, or of another type than its like in other layers.
    """
    expected = hf_shapes(spec)
    present = {name for name in hf.places if not name.endswith(IGNORED_HF)}
    if spec.tied and present & set(HEAD.hf):
        check_tied(hf, source=source)
        present -= set(HEAD.hf)
    if missing := sorted(set(expected) - present):
        raise UserError(
            f"{source} lacks {len(missing)} of the {len(expected)} tensors of a {spec.family} model, {missing[0]} first; is "
            "a file missing, or is config.json of another model?"
        )
    if surplus := sorted(present - set(expected)):
        raise UserError(
            f"{source} holds {surplus[0]} ({len(surplus)} such), which a {spec.family} model of this config does not have"
        )
    for name, shape in expected.items():
        if hf.places[name].shape != shape:
            raise UserError(
                f"{source}: {name} has shape {list(hf.places[name].shape)}, config.json says {list(shape)}; they are of "
                "different models"
            )
    for entry in layer_entries(spec):
        names = [f"model.layers.{layer}.{name}" for layer in range(spec.num_layers) for name in entry.hf]
        types = {hf.places[name].dtype for name in names}
        if len(types) > 1:
            raise UserError(
                f"{source}: {entry.hf[0]} has several types, {sorted(map(str, types))}", fix="save it in one"
            )


def check_tied(hf: HfTensors, *, source: Path) -> None:
    """Refuse a second head that is not the embedding although the config ties them."""
    head, table = HEAD.hf[0], EMBEDDING.hf[0]
    if table not in hf.places:
        return  # named as missing
    same = hf.places[head].shape == hf.places[table].shape and hf.places[head].dtype == hf.places[table].dtype
    rows = hf.places[table].shape[0] if same else 0
    for start in range(0, rows, BLOCK):
        span = (start, min(start + BLOCK, rows))
        same = same and torch.equal(hf.read(head, rows=span), hf.read(table, rows=span))
    if not same:
        raise UserError(
            f"{source}: config.json says tie_word_embeddings=true, but {head} is not {table}",
            fix=f"set it to false if the head was trained apart, or remove {head} if it is a leftover",
        )


def check_adapter(source: Path, *, ignore: bool) -> None:
    """Refuse a LoRA adapter beside full weights, which transformers adds by itself and this converter does not."""
    if not ignore and (source / ADAPTER).is_file():
        raise UserError(
            f"{source} holds a LoRA adapter ({ADAPTER}) beside the weights, which transformers adds by itself",
            fix="merge it first (peft: merge_and_unload, then save_pretrained), or convert the weights alone with "
            "--ignore-adapter",
        )


def without_rows(tokenizer: CorpusTokenizer, *, rows: int, folder: Path) -> tuple[str, str] | None:
    """Return which tokens have no row in a model, and what to do, or None if all have.

    A token that only a class of transformers adds (`<|endoftext|>` to every model of type qwen2) is in no text.
    """
    from tokenizers import Tokenizer

    def beyond(opened: Tokenizer) -> dict[str, int]:
        ids = opened.get_vocab(with_added_tokens=True)
        return {token: n for token, n in ids.items() if n >= rows and n != tokenizer.info.mask_id}

    opened = Tokenizer.from_str(tokenizer.definition)
    missing = beyond(opened)
    if (folder / "tokenizer.json").is_file():
        missing = beyond(Tokenizer.from_file(str(folder / "tokenizer.json")))
    if not missing:
        return None
    added = {str(token) for token in opened.get_added_tokens_decoder().values()}
    if set(missing) - added:
        return "it is another model's tokenizer", "give the model's own with --tokenizer"
    listed = ", ".join(f"{token} ({n})" for token, n in sorted(missing.items(), key=itemgetter(1))[:4])
    return (
        f"{listed}{', ...' if len(missing) > 4 else ''} {'has' if len(missing) == 1 else 'have'} no row: tokens were added "
        "and the model was not resized",
        "give it rows (transformers: model.resize_token_embeddings(len(tokenizer)), then save both), or remove the tokens",
    )


def known_ids(tokenizer: CorpusTokenizer) -> int:
    """Return the highest id + 1 without [MASK], if [MASK] is the last one."""
    size = tokenizer.info.vocab_size
    return size - 1 if tokenizer.info.mask_id == size - 1 else size
