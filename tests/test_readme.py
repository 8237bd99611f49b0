"""The README's make targets exist, and its path on one's own text works as written; tests/docs checks its commands."""

import re
from pathlib import Path

from tests.docs.pages import commands
from tests.support.corpus import library_texts, write_byte_tokenizer
from tests.support.runs import ROOT, TINY, meap

README = (ROOT / "README.md").read_text()


def test_the_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+) ", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_tree_names_every_package_and_folder() -> None:
    tree = README[README.index("```\nmeap_megatron/") :].split("```")[1]
    inside, _, beside = tree.partition("csrc/")
    assert set(re.findall(r"^  (\w+)/", inside, flags=re.MULTILINE)) == {
        path.parent.name for path in (ROOT / "meap_megatron").glob("*/__init__.py")
    }
    assert all((ROOT / name).is_dir() for name in re.findall(r"^(\w+)/", beside, flags=re.MULTILINE))


def test_the_path_on_ones_own_text_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "my_texts").mkdir()
    for number, text in enumerate(library_texts(4_000_000)):
        (tmp_path / "my_texts" / f"{number}.txt").write_text(text)
    write_byte_tokenizer(tmp_path / "my_tokenizer")
    own = [list(found.words) for found in commands(ROOT / "README.md") if "mine" in str(found)][:4]
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
