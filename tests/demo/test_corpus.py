"""The demo's corpus: chosen the same way everywhere, and only text that belongs to Python."""

import json

import pytest

from meap_megatron.demo.corpus import documents, module_files, read_texts, standard_library, write_corpus
from meap_megatron.errors import UserError


def library(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return folder


def test_tests_third_party_packages_and_build_settings_are_left_out(tmp_path):
    folder = library(
        tmp_path,
        {
            "abc.py": "x",
            "json/decoder.py": "x",
            "json/notes.txt": "x",
            "test/test_abc.py": "x",
            "unittest/test/x.py": "x",
            "site-packages/numpy/core.py": "x",
            "idlelib/run.py": "x",
            "_sysconfigdata__linux.py": "x",
            "config-3.12/python-config.py": "x",
        },
    )
    assert sorted(path.relative_to(folder).as_posix() for path in module_files(folder)) == [
        "abc.py",
        "json/decoder.py",
    ]


def test_the_order_depends_on_names_and_not_on_the_place(tmp_path):
    names = [f"m{number}.py" for number in range(20)]
    first = module_files(library(tmp_path / "a", dict.fromkeys(names, "x")))
    second = module_files(library(tmp_path / "b" / "c", dict.fromkeys(reversed(names), "x")))
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.name for path in first] != sorted(names)


def test_empty_foreign_and_huge_files_are_no_documents(tmp_path):
    folder = library(tmp_path, {"a.py": "text", "b.py": " \n", "c.py": b"\xff\xfe latin", "d.py": "y" * 101})
    assert list(documents(folder, byte_limit=1000)) == [("a.py", "text")]


def test_the_limit_ends_the_corpus_after_the_document_that_reaches_it(tmp_path):
    folder = library(tmp_path, {f"m{number}.py": "z" * 50 for number in range(30)})
    assert len(list(documents(folder, byte_limit=1000))) == 20


def test_a_corpus_reads_back_as_written(tmp_path):
    folder = library(tmp_path / "lib", {f"m{number}.py": f"# é {number}\n" * 5 for number in range(30)})
    corpus = write_corpus(tmp_path / "out" / "c.jsonl", folder=folder, byte_limit=1000)
    texts = list(read_texts(corpus.path))
    assert corpus.num_documents == len(texts)
    assert corpus.num_bytes == sum(len(text.encode("utf-8")) for text in texts)
    assert json.loads(corpus.path.read_text(encoding="utf-8").splitlines()[0]).keys() == {"module", "text"}
    assert [path.name for path in corpus.path.parent.iterdir()] == ["c.jsonl"]


def test_a_library_without_sources_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="holds 4 bytes of Python sources, the demo needs 500,000"):
        write_corpus(
            tmp_path / "out" / "c.jsonl", folder=library(tmp_path / "lib", {"a.py": "text"}), byte_limit=10**7
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_this_machine_has_a_corpus():
    assert sum(len(text) for _, text in documents(standard_library(), byte_limit=1_000_000)) > 800_000
