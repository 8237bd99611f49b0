"""The demo's tokenizer is one that transformers loads and that loses no byte."""

from meap_megatron.tokenizer.train import train_tokenizer


def test_the_folder_loads_with_transformers_and_gives_every_text_back(tmp_path):
    from transformers import AutoTokenizer

    texts = ["def f(x):\n    return x + 1\n" * 20, "class A:\n    pass\n" * 20]
    assert train_tokenizer(texts, tmp_path / "t", vocab_size=270) == 270
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "t"))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (0, 1, 2)
    strange = "\tif é漢😀:\n        x = '\x00'\n"
    ids = tokenizer(strange, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == strange


def test_a_short_text_gives_fewer_pieces(tmp_path):
    assert train_tokenizer(["ab ab"], tmp_path / "t", vocab_size=4096) < 300
