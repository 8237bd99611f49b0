"""What the README tells people to type exists, and the path on one's own text works as written."""

import re
import shlex
from pathlib import Path

from meap_megatron.cli.main import VERBS
from tests.support.corpus import library_texts, write_byte_tokenizer
from tests.support.runs import ROOT, TINY, meap

README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """Return the words of every `meap` command in the README's code blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("meap ")]
    return [shlex.split(line.split("#")[0])[1:] for line in lines]


def test_every_command_names_a_verb_and_files_that_are_there() -> None:
    assert len(commands()) >= 8
    for words in commands():
        assert " ".join(words[:2]) in VERBS or words[0] in VERBS, words
        for word in words:
            if word.startswith(("examples/", "docs/", "tests/")):
                assert (ROOT / word).exists(), word


def test_the_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+) ", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_path_on_ones_own_text_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "my_texts").mkdir()
    for number, text in enumerate(library_texts(4_000_000)):
        (tmp_path / "my_texts" / f"{number}.txt").write_text(text)
    write_byte_tokenizer(tmp_path / "my_tokenizer")
    own = [words for words in commands() if any("mine" in word for word in words)][:4]
    assert [words[0] for words in own] == ["preprocess", "verify", "show", "train"]
    for words in own:
        words = [
            word.replace("data/", f"{tmp_path}/data/")
            .replace("=runs/", f"={tmp_path}/runs/")
            .replace("my_", f"{tmp_path}/my_")
            for word in words
        ]
        extra = [*TINY, "train_iters=2"] if words[0] == "train" else []
        meap(*words, *extra)
    assert (tmp_path / "runs" / "mine" / "latest_checkpointed_iteration.txt").read_text().strip() == "2"
