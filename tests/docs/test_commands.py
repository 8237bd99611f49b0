"""Commands in the documentation name real verbs, options, recipes and keys; the pages of a first hour run as written."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest

from meap_megatron.cli.main import VERBS, find_verb, main, parser_of
from meap_megatron.errors import UserError
from meap_megatron.launch.flags import read_flags
from meap_megatron.launch.recipe import load
from tests.docs.pages import Command, commands, pages
from tests.support.conversations import docstring_rows, write_alpaca, write_chat_tokenizer
from tests.support.corpus import library_texts, write_byte_tokenizer
from tests.support.hf_models import write_model
from tests.support.runs import ROOT, TINY, meap

FIRST_HOUR = ("quickstart", "own_data", "pretraining", "finetuning")
"""Pages whose commands are run, one page after the other, in one folder. Those of reproduction.md repeat these."""
CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
ALL = [command for page in pages() for command in commands(page)]


def test_the_documentation_shows_every_verb() -> None:
    shown = {find_verb(list(command.words))[0] for command in ALL}
    assert not set(VERBS) - shown - {"demo"}, "make demo is how the pages start it"


@pytest.mark.parametrize("command", ALL, ids=str)
def test_every_command_is_one_that_its_verb_takes(command: Command) -> None:
    verb, rest = find_verb(list(command.words))
    _, parser = parser_of(verb)
    try:
        args = parser.parse_intermixed_args(rest)
    except UserError as error:
        pytest.fail(f"{command}: refused by its own parser: {error}")
    for word in command.words:
        if word.startswith(("examples/", "docs/", "tests/", "meap_megatron/")):
            assert (ROOT / word).exists(), word
    recipe = ROOT / getattr(args, "recipe", "no recipe")
    if verb in ("train", "cache") and recipe.is_file():
        settings = args.overrides if hasattr(args, "overrides") else args.settings
        load(recipe, settings).command_line(read_flags())


def test_the_pages_of_a_first_hour_run_as_written(tmp_path: Path) -> None:
    meap("init", "--examples", cwd=tmp_path)
    texts = library_texts(1_500_000)
    for folder, some in (("my_texts", texts[::2]), ("more_texts", texts[1::2])):
        (tmp_path / folder).mkdir()
        for number, text in enumerate(some):
            (tmp_path / folder / f"{number}.txt").write_text(text)
    write_byte_tokenizer(tmp_path / "my_tokenizer", vocab_size=1024)  # so that a needle fits into 256 tokens
    write_alpaca(tmp_path / "alpaca.json", docstring_rows(400))
    # What `make demo` leaves; tests/cli/test_demo_verb.py runs it.
    shutil.copytree(tmp_path / "my_tokenizer", tmp_path / "demo" / "tokenizer")
    meap(*"preprocess text my_texts/ --tokenizer demo/tokenizer --output demo/data/stdlib".split(), cwd=tmp_path)
    # The README's path on one's own text repeats these pages, and goes on to compare both models.
    readme = [
        one
        for one in commands(ROOT / "README.md")
        if "plan" in one.words or {"mine", "ntp"} & set(re.split(r"\W", str(one)))
    ]
    assert len(readme) == 12
    ran: set[tuple[str, ...]] = set()
    for command in [*(one for page in FIRST_HOUR for one in commands(ROOT / "docs" / f"{page}.md")), *readme]:
        words = command.words
        if command.not_run or (command in readme and words in ran):
            continue
        ran.add(words)
        if words[0] in ("train", "cache"):
            small = [word for word in TINY if "64" not in word or "hidden" in word]  # the pages say 256 tokens
            words = (*words, *small, "train_iters=2", "device=cpu")
        meap(*words, cwd=tmp_path)
        if words[0] == "report":
            (tmp_path / "report.html").unlink()
    verbs = {"preprocess", "verify", "show", "train", "generate", "convert", "evaluate", "report", "cache", "plan"}
    assert len(ran) >= 25 and verbs <= {words[0] for words in ran}


def test_a_model_of_ones_own_is_fine_tuned_and_talks_in_four_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_model(
        tmp_path / "my_model", "llama2", vocab_size=1024, num_hidden_layers=2, max_position_embeddings=4096
    )
    write_chat_tokenizer(source, chat_template=CHATML)
    talk = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "All right, here it is."}]
    (tmp_path / "conversations.jsonl").write_text((json.dumps({"messages": talk}) + "\n") * 32)
    own = [found.words for found in commands(ROOT / "README.md") if "my_model" in str(found)]
    assert [words[0] for words in own] == ["convert", "preprocess", "train", "chat"]
    small = (
        "seq_length=128 global_batch_size=8 train_iters=40 meap_epochs=null lr=0.01 min_lr=0.01 lr_warmup_fraction=0"
    )
    for words in own[:3]:
        extra = [*small.split(), "precision=fp32", "device=cpu"] if words[0] == "train" else []
        meap(*words, *extra, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("Say it.\n"))
    assert main([*own[3], "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == "All right, here it is."


def test_a_wrong_command_would_be_found() -> None:
    with pytest.raises(UserError, match="did you mean"):
        find_verb(["preproces", "text"])
    _, parser = parser_of("train")
    with pytest.raises(UserError, match="unrecognized arguments: --no-such-option"):
        parser.parse_intermixed_args(["recipe.yaml", "--no-such-option"])
