"""Data and an imported model must have one tokenizer, and [MASK] needs a row."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from meap_megatron.checkpoint.convert.record import read_record, write_record
from meap_megatron.checkpoint.convert.tokenizer_check import check_imports, check_named
from meap_megatron.cli.main import main
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import read_sidecar
from meap_megatron.launch.data_flags import data_flags
from tests.checkpoint.convert.test_round_trip import FAST, imported
from tests.support.corpus import write_word_tokenizer
from tests.support.hf_models import write_model


def write_tokenizer(folder: Path, words: list[str], **config: str) -> Path:
    """Write a tokenizer of whole words."""
    return write_word_tokenizer(folder, words, special=["<s>", "</s>", "<unk>"], **FAST | config)


WORDS = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(3, 500))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    source = write_model(write_tokenizer(root / "hf", WORDS), "llama2", vocab_size=512)
    return imported(source, root / "mc", add_mask_token=True)


def data(root: Path, tokenizer: Path) -> str:
    """Make a dataset with a tokenizer and return its prefix."""
    (root / "text.jsonl").write_text('{"text": "w5 w6 w7"}\n' * 20)
    words = [str(root / "text.jsonl"), "--tokenizer", str(tokenizer), "--output", str(root / "data")]
    assert main(["preprocess", "text", *words, "--overwrite"]) == 0
    return str(root / "data")


def check(model: Path, prefix: str) -> None:
    check_imports([str(model)], [read_sidecar(prefix)], [prefix])


def test_data_of_the_models_own_tokenizer_are_accepted(model: Path, tmp_path: Path) -> None:
    check(model, data(tmp_path, model / "tokenizer"))
    check(model, data(tmp_path, model.parent / "hf"))
    check(tmp_path, data(tmp_path, model.parent / "hf"))  # weights that no import wrote


def test_a_tokenizer_that_adds_tokens_or_names_another_bos_is_accepted(model: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    more = shutil.copytree(model / "tokenizer", tmp_path / "more") / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(more))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(more))
    check(model, data(tmp_path, more.parent))
    check(model, data(tmp_path, write_tokenizer(tmp_path / "bos", WORDS, bos_token="w9")))


def test_data_of_another_tokenizer_are_refused_with_the_tokens(model: Path, tmp_path: Path) -> None:
    prefix = data(tmp_path, write_tokenizer(tmp_path / "other", [*WORDS[:3], *reversed(WORDS[3:])]))
    with pytest.raises(UserError, match=r"another tokenizer than .*'w3' is 3 in the model, 499 in the data") as raised:
        check(model, prefix)
    assert f"--tokenizer {model / 'tokenizer'}" in str(raised.value)
    # As training meets it, before Megatron is imported; and the export, with data that the run named.
    with pytest.raises(UserError, match="another tokenizer than"):
        data_flags([f"--data-path={prefix}", f"--pretrained-checkpoint={model}"])
    assert main(["convert", "export", str(model), str(tmp_path / "out"), "--data", prefix]) == 2
    assert not (tmp_path / "out").exists()


def test_an_export_refuses_a_tokenizer_that_is_not_the_models(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, out = model / "tokenizer", tmp_path / "out"
    other = write_tokenizer(tmp_path / "other", [*WORDS[:3], *reversed(WORDS[3:])])
    short = write_tokenizer(tmp_path / "short", WORDS[:400])

    def refused(given: Path, *options: str) -> str:
        assert main(["convert", "export", str(model), str(out), "--tokenizer", str(given), *options]) == 2
        assert not out.exists()
        return capsys.readouterr().err

    said = refused(other)
    assert f"is not the tokenizer that {model} was imported with (496 of 501 tokens have another id: 'w3' is 3" in said
    assert f"leave --tokenizer out, or give {own}" in said
    prefix = data(tmp_path, own)
    assert f"is not the tokenizer that made {prefix}" in refused(other, "--data", prefix)
    assert "'w400' is 400 there, absent in it" in refused(short, "--data", prefix)
    shutil.rmtree(f"{prefix}.tokenizer")
    assert "their fingerprints differ" in refused(other, "--data", prefix)
    # The model's own, from where it came, and one that only adds tokens.
    sidecar = read_sidecar(prefix)
    for given in (own, model.parent / "hf"):
        assert check_named(given, data=(prefix, sidecar), source=None, ids=None).vocab_size == 501
        assert check_named(given, data=None, source=(model, read_record(model)), ids=None).mask_id == 500
    # Neither data nor import here: what is left is the number of ids.
    with pytest.raises(UserError, match="it has 401 ids, and that one 501"):
        check_named(short, data=None, source=None, ids=501)
    assert check_named(own, data=None, source=None, ids=501).vocab_size == 501


def test_an_import_without_a_row_for_the_mask_token_is_named(model: Path, tmp_path: Path) -> None:
    source = write_model(write_tokenizer(tmp_path / "hf", [*WORDS, *(f"v{i}" for i in range(12))]), "llama2")
    plain = imported(source, tmp_path / "mc")
    prefix = data(tmp_path, source)
    with pytest.raises(UserError, match=r"\[MASK\] \(id 512\), .* no row.* again with --add-mask-token"):
        check(plain, prefix)
    # A record of an earlier version says nothing about the tokenizer.
    record = read_record(model)
    assert record is not None and record.tokenizer is not None
    (tmp_path / "old").mkdir()
    write_record(tmp_path / "old", replace(record, tokenizer=None))
    check(tmp_path / "old", data(tmp_path, write_tokenizer(tmp_path / "other", [*WORDS[:3], *reversed(WORDS[3:])])))


@pytest.mark.parametrize(("name", "apart"), [("LlamaTokenizer", True), ("PreTrainedTokenizerFast", False)])
def test_a_class_that_drops_a_space_before_a_text_is_named(tmp_path: Path, name: str, apart: bool) -> None:
    """As transformers 5 does with Llama-2's own files: training reads the tokenizer.json."""
    from tokenizers import Tokenizer, models, normalizers

    from meap_megatron.checkpoint.convert.verifying import SAMPLES, tokenizer_problem

    letters = sorted({*"".join(SAMPLES).replace(" ", "▁")})
    vocabulary = {text: index for index, text in enumerate(["<unk>", "<s>", "</s>", *letters, "▁▁"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "▁")], unk_token="<unk>", fuse_unk=True))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": name, "legacy": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    problem = tokenizer_problem(tmp_path)
    assert (
        problem is not None and "other ids than its tokenizer.json" in problem and "' a space'" in problem
    ) == apart
    assert apart or problem is None
