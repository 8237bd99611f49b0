"""The README's make targets and tree are there, and its path on one's own text works; folders' pages list their files."""

import io
import re
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from tests.docs.pages import commands
from tests.generation.conftest import TEMPLATE
from tests.support.conversations import write_chat_tokenizer, write_rows
from tests.support.corpus import library_texts, write_byte_tokenizer
from tests.support.hf_models import write_model
from tests.support.runs import ROOT, TINY, meap
from tests.test_imports import PACKAGE

README = (ROOT / "README.md").read_text()


def test_the_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+) ", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_fast_tests_are_there_and_of_every_package() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    fast = re.findall(r"tests/\S+", re.findall(r"^FAST := (.*)$", makefile, flags=re.MULTILINE)[0])
    assert all((ROOT / path).exists() for path in fast)
    tested = {Path(path).parts[1] for path in fast}
    assert {path.parent.name for path in (ROOT / "meap_megatron").glob("*/__init__.py")} <= tested


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


def test_the_path_from_a_model_and_conversations_to_a_chat_is_four_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"num_hidden_layers": 2, "max_position_embeddings": 8192}
    write_chat_tokenizer(write_model(tmp_path / "my_model", "qwen3", vocab_size=1024, **sizes), chat_template=TEMPLATE)
    said = [
        ("user", "What is 2 + 2?"),
        ("assistant", "4, as far as anybody knows."),
        ("user", "Sure?"),
        ("assistant", "Yes."),
    ]
    talk = {"messages": [{"role": role, "content": content} for role, content in said]}
    write_rows(tmp_path / "conversations.jsonl", [talk] * 6)
    own = [list(found.words) for found in commands(ROOT / "README.md") if "my_model" in str(found)]
    assert [words[0] for words in own] == ["convert", "preprocess", "train", "chat"]
    small = {"preprocess": ["--max-length", "65"], "train": ["seq_length=64", "global_batch_size=2", "meap_epochs=1"]}
    for words in own[:-1]:
        meap(*words, *small.get(words[0], []), cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2 + 2?\n"))
    assert main([*own[-1], "--max-tokens", "8"]) == 0
    answer = capsys.readouterr().out
    assert answer.strip() and "[MASK]" not in answer
    assert (tmp_path / "runs/my_model/latest_checkpointed_iteration.txt").read_text().strip() == "3"


MANY = 8


def files_of(folder: Path) -> set[str]:
    """Return the Python files of a folder, and the packages in it with a slash."""
    packages = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    return {path.name for path in folder.glob("*.py") if path.name != "__init__.py"} | packages


def listed(page: str) -> list[str]:
    """Return what the first cells of a page's file table name."""
    table = re.search(r"^\| file \| holds \|\n\| --- \| --- \|\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    rows = table.group(1).splitlines() if table else []
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


FOLDERS = sorted(
    path.parent for path in PACKAGE.rglob("__init__.py") if len(list(path.parent.glob("*.py"))) > MANY + 1
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_a_folder_of_many_files_has_a_page_that_lists_them(folder: Path) -> None:
    names = listed((folder / "README.md").read_text(encoding="utf-8"))
    assert len(names) == len(set(names))
    unlisted, gone = files_of(folder) - set(names), set(names) - files_of(folder)
    assert not unlisted and not gone, f"the file table of {folder / 'README.md'} lacks {unlisted}, and lists {gone}"


@pytest.mark.parametrize("page", sorted(PACKAGE.rglob("README.md")), ids=lambda page: str(page.relative_to(PACKAGE)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:\.\./)*[\w/]+\.py)`", page.read_text(encoding="utf-8"))
    assert named
    assert not [name for name in named if not any((base / name).is_file() for base in (page.parent, PACKAGE))]
