"""Which files of a folder are read, what is said of the others, and what a file is found to hold."""

import bz2
import gzip
import io
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.corpus.inputs import InputFile, find_inputs, refuse_skipped, skipped_lines
from meap_megatron.corpus.json_values import json_values
from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.errors import UserError
from tests.corpus.corpus_samples import config, documents, names, write_jsonl
from tests.corpus.test_readers import read

LINE = b'{"text": "a"}\n'


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def found(*patterns: Path | str, **options: Any) -> tuple[list[str], dict[str, list[str]]]:
    """The names of the files that are read, and those that are not by reason."""
    inputs = find_inputs(list(map(str, patterns)), **options)
    reasons: dict[str, list[str]] = {}
    for one in inputs.skipped:
        reasons.setdefault(one.why, []).append(Path(one.path).name)
    return [Path(file.path).name for file in inputs.files], reasons


def test_inputs_are_files_folders_and_globs_each_file_once(tmp_path: Path) -> None:
    lay(tmp_path, dict.fromkeys(("b/2.jsonl", "b/1.txt", "b/deep/3.json.gz", "a.txt"), b""))
    files = find_inputs([f"{tmp_path}/*.txt", f"{tmp_path}/b", f"{tmp_path}/b/**/*.gz"])
    listed = [str(Path(file.path).relative_to(tmp_path)) for file in files.files]
    assert listed == ["a.txt", "b/1.txt", "b/2.jsonl", "b/deep/3.json.gz"]
    assert list(skipped_lines(files.skipped)) == [f"  named twice, read once (1): {tmp_path}/b/deep/3.json.gz"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("*.txt", "no input matches"), ("x.csv", "unknown suffix"), ("empty", "no file that can be read")],
)
def test_an_input_that_gives_nothing_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "x.csv").write_text("a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_inputs([str(tmp_path / name)])


PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".txt", ".JSONL", ".Txt", ".NDJson"])
def test_suffixes_in_any_case_and_compressed_are_read(tmp_path: Path, suffix: str, compression: str) -> None:
    raw = b"a" if suffix.lower() == ".txt" else LINE
    for spelling in {compression, compression.upper()}:
        path = tmp_path / f"x{suffix}{spelling}"
        path.write_bytes(PACK[compression](raw))
        assert [text for _, text in read(path)] == [b"a"]


@pytest.mark.parametrize("compression", [".bz2", ".xz"])
def test_archives_of_several_members_or_of_nothing_are_read(tmp_path: Path, compression: str) -> None:
    pack = PACK[compression]
    (tmp_path / f"x.jsonl{compression}").write_bytes(pack(LINE) + pack(LINE * 2))
    (tmp_path / f"y.jsonl{compression}").write_bytes(b"")
    (tmp_path / f"z.jsonl{compression}").write_bytes(pack(b""))
    assert [len(read(tmp_path / f"{name}.jsonl{compression}")) for name in "xyz"] == [3, 0, 0]
    (tmp_path / f"cut.jsonl{compression}").write_bytes(pack(os.urandom(2**18))[:-9])
    with pytest.raises(UserError, match=f"cut.jsonl{compression} cannot be read: .*; the file is damaged"):
        read(tmp_path / f"cut.jsonl{compression}")


def test_zstd_with_a_window_above_128_megabytes_is_read(tmp_path: Path) -> None:
    import zstandard

    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    path = tmp_path / "x.jsonl.zst"
    # A skippable frame first, as pzstd writes it.
    path.write_bytes(b"\x50\x2a\x4d\x18\x02\x00\x00\x00ab" + packer.compress(LINE) + packer.flush())
    with pytest.raises(zstandard.ZstdError, match="too much memory"):
        zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()[10:])
    assert [text for _, text in read(path)] == [b"a"]


def test_links_are_followed_and_every_folder_is_read_once(tmp_path: Path) -> None:
    lay(tmp_path, {"in/z/own.jsonl": LINE, "far/more.jsonl": LINE, "far/blob": LINE})
    folder = tmp_path / "in"
    (folder / "a").symlink_to(tmp_path / "far")
    for name in ("b", "zz"):  # before and behind the folder itself, which is read under its own name
        (folder / name).symlink_to(folder / "z")
    (tmp_path / "far" / "up").symlink_to(folder)
    (folder / "blob.jsonl").symlink_to(tmp_path / "far" / "blob")  # read by way of the link: not an unknown suffix
    (folder / "gone.jsonl").symlink_to("nowhere")
    (folder / "self.jsonl").symlink_to("self.jsonl")
    files, reasons = found(folder)
    assert files == ["more.jsonl", "blob.jsonl", "own.jsonl"]
    assert reasons == {
        "link to a folder that is read already": ["b", "zz", "up"],
        "broken link": ["gone.jsonl", "self.jsonl"],
    }
    inputs = find_inputs([str(folder)])
    assert str(folder / "z" / "own.jsonl") in [file.path for file in inputs.files]
    with pytest.raises(UserError, match="--strict: 2 files would be skipped:\n  broken link .2.: .*to nowhere"):
        refuse_skipped(inputs.skipped)
    with pytest.raises(UserError, match="gone.jsonl is a broken link to nowhere"):
        find_inputs([str(folder / "gone.jsonl")])


def test_what_is_not_data_is_skipped_and_said(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "a.jsonl": LINE,
            "one.json": LINE,
            ".ipynb_checkpoints/a.jsonl": LINE,
            ".hidden.jsonl": LINE,
            "__MACOSX/a.jsonl": LINE,
            "README.md": b"x",
            "LICENSE": b"x",
            "license.txt": b"x",
            "dataset_infos.json": b"{" + b" " * 2**17 + b"}",
            "_SUCCESS": b"",
            **dict.fromkeys(
                ("tokenizer.json", "vocab.json", "x.index.json", "x.meap.json"), b"{" + b" " * 2**17 + b"}"
            ),
            **dict.fromkeys(("merges.txt", "vocab.txt"), b"x"),
            ".gitattributes": b"x",
            "splits.json": json.dumps({"splits": {"train": 1}}, indent=1).encode(),
            "b.csv": b"x",
            "part-00000": LINE,
            "x.tar.gz": b"x",
            "x.parquet.gz": b"x",
        },
    )
    is_record = lambda record: "text" in record  # noqa: E731
    files, reasons = found(tmp_path, is_record=is_record)
    assert files == ["a.jsonl", "one.json"]
    assert {why: sorted(names) for why, names in reasons.items()} == {
        "hidden": [".gitattributes", ".hidden.jsonl", ".ipynb_checkpoints"],
        "metadata": [
            *("LICENSE", "README.md", "_SUCCESS", "__MACOSX", "dataset_infos.json", "license.txt", "merges.txt"),
            *("tokenizer.json", "vocab.json", "vocab.txt", "x.index.json", "x.meap.json"),
        ],
        "one JSON object that is not a record": ["splits.json"],
        "unknown suffix": ["b.csv", "part-00000", "x.parquet.gz", "x.tar.gz"],
    }
    lines = list(skipped_lines(find_inputs([str(tmp_path)], is_record=is_record).skipped))
    assert len(lines) == 4 and any(
        line.startswith("  unknown suffix (4): ") and "and 1 more" in line for line in lines
    )
    # What is named itself is data.
    for name in (".hidden.jsonl", "license.txt", "splits.json", ".ipynb_checkpoints"):
        assert len(found(tmp_path / name, is_record=is_record)[0]) == 1


def test_a_glob_takes_what_can_be_read_and_folders_with_all_below_them(tmp_path: Path) -> None:
    lay(tmp_path, {"in/a.jsonl": LINE, "in/b.csv": b"", "in/c/d.jsonl": LINE, "in/c/e.md": b""})
    assert found(f"{tmp_path}/in/*") == (["a.jsonl", "d.jsonl"], {"unknown suffix": ["b.csv", "e.md"]})
    assert found(f"{tmp_path}/in/**")[0] == ["a.jsonl", "d.jsonl"]
    with pytest.raises(UserError, match=r"\*.csv contains no file that can be read(.|\n)*unknown suffix .1.: "):
        find_inputs([f"{tmp_path}/in/*.csv"])


CONTENTS = {
    "x.jsonl": (gzip.compress(LINE), "it is .gz data"),
    "y.jsonl.gz": (LINE, "it is not .gz data, it begins with b'{\"text"),
    "z.jsonl.gz": (bz2.compress(LINE), "it is .bz2 data"),
    "p.jsonl": (b"PAR1\x15\x04", "it is parquet"),
    "q.parquet": (b"x", "it is not parquet data"),
    "w.txt": (b"PK\x03\x04", "it is a zip archive"),
    "l.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not the data"),
    "m.jsonl": (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not the data"),
    "t.jsonl.gz": (gzip.compress(os.urandom(999))[:-9], "the file is damaged"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_not_what_its_name_says_is_named_with_the_cause(tmp_path: Path, name: str) -> None:
    raw, cause = CONTENTS[name]
    lay(tmp_path, {name: raw, "good.txt": b"PAR1 is a protein."})
    inputs = find_inputs([str(tmp_path)])
    assert [Path(file.path).name for file in inputs.files] == ["good.txt"]
    assert cause in "".join(skipped_lines(inputs.skipped)) and name in "".join(skipped_lines(inputs.skipped))
    with pytest.raises(UserError, match=f"{name} cannot be read: ") as error:
        find_inputs([str(tmp_path / name)])
    assert cause in str(error.value)


def test_a_pipe_and_a_file_without_permission_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    lay(tmp_path, {"a.jsonl": LINE, "shut.jsonl": LINE})
    whole = Path.open

    def refusing(path: Path, *arguments: Any, **options: Any) -> Any:  # the tests may run as root, who may read all
        if path.name == "shut.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    assert found(tmp_path) == (["a.jsonl"], {"not a regular file": ["pipe.jsonl"], "unreadable": ["shut.jsonl"]})
    with pytest.raises(UserError, match="pipe.jsonl is not a regular file"):
        find_inputs([str(tmp_path / "pipe.jsonl")])
    with pytest.raises(UserError, match="shut.jsonl cannot be read: Permission denied"):
        find_inputs([str(tmp_path / "shut.jsonl")])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("compression", ["", ".xz"])
def test_utf_16_and_32_are_read_with_and_without_a_mark(
    tmp_path: Path, encoding: str, mark: str, compression: str
) -> None:
    def write(name: str, text: str) -> Path:
        path = tmp_path / (name + compression)
        path.write_bytes(PACK[compression]((mark + text).encode(encoding, "surrogatepass")))
        return path

    path = write("x.jsonl", '{"text": "漢é😀"}\r\n{"text": "\ud800"}\n{"text": "b"}\n')
    texts = [text for _, text in read(path, chunk_bytes=3)]
    assert (texts[0], texts[2]) == ("漢é😀".encode(), b"b")
    assert isinstance(texts[1], str) and "invalid UTF-8 at byte 10" in texts[1]
    assert [text for _, text in read(write("y.json", '[{"text": "漢"},\n {"text": "b"}]'))] == ["漢".encode(), b"b"]
    if mark or encoding.startswith("utf-16"):  # UTF-32 without a mark is recognised where a file is JSON
        assert [text for _, text in read(write("z.txt", "Le café, 漢"))] == ["Le café, 漢".encode()]


def test_zero_bytes_in_a_text_are_no_sign_of_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"a\0bc\0\0def\0\0g and more")
    assert read(path) == [(f"{path}:1", path.read_bytes())]


def kind_of(path: Path) -> str:
    file: InputFile = find_inputs([str(path)]).files[0]
    return file.kind


LAYOUTS = {
    "lines": (LINE * 3, "jsonl"),
    "one line": (LINE[:-1], "jsonl"),
    "array": (b'[{"text": "a"}]', "array"),
    "array with a mark": (b'\xef\xbb\xbf\n [\n{"text": "a"}\n]', "array"),
    "empty array": (b"[ \n]", "array"),
    "array of one long element": (b'[{"text": "' + b"a" * 2**17 + b'"}\n]', "array"),
    "pretty object": (json.dumps({"text": "a"}, indent=1).encode(), "objects"),
    "pretty objects": ((json.dumps({"text": "a"}, indent=1) + "\n").encode() * 3, "objects"),
    "long pretty object": (json.dumps({"text": "a" * 2**17}, indent=1).encode(), "objects"),
    "nothing": (b"", "jsonl"),
    "bad first line": (b"no\n" + LINE, "jsonl"),
    "bad first line like an array": (b"[see below]\n" + LINE, "jsonl"),
    "bad first line like an object": (b'{"text": "a\n' + LINE, "jsonl"),
    "unfinished object": (b'{\n"text": "a",\n', "jsonl"),
    "arrays on lines": (b'["a"]\n["b"]\n', "jsonl"),
    "brackets without end": (b"[" * 200_000, "jsonl"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_of_json_is_read_off_the_content(tmp_path: Path, name: str) -> None:
    raw, kind = LAYOUTS[name]
    (tmp_path / "x.json").write_bytes(raw)
    assert kind_of(tmp_path / "x.json") == kind


@pytest.mark.parametrize("chunk_bytes", [1, 40, 10**6])
@pytest.mark.parametrize("window", [1, 3, 17, 2**20])
@pytest.mark.parametrize("compression", ["", ".gz"])
def test_arrays_and_objects_give_each_value_once_with_its_line(
    tmp_path: Path, chunk_bytes: int, window: int, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meap_megatron.corpus.json_values.WINDOW", window)
    texts = [f"{i} é漢 " + '[{"\\,]}' * (i % 3) for i in range(9)]
    values = [json.dumps({"text": text, "n": i, "more": [True, 1.5]}, indent=1) for i, text in enumerate(texts)]
    expected = [(9 * i + 1, text.encode()) for i, text in enumerate(texts)]
    for name, whole in (("array", "[" + ",\n\n".join(values) + "]\n"), ("objects", "\n\n".join(values))):
        path = tmp_path / f"{name}.json{compression}"
        path.write_bytes(PACK[compression](whole.encode()))
        assert read(path, chunk_bytes=chunk_bytes) == [(f"{path}:{line}", text) for line, text in expected]


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_values_that_only_what_follows_ends_are_whole(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meap_megatron.corpus.json_values.WINDOW", window)
    for raw, brackets in ((b"[12345, -6.75e10, true,\n89]", True), (b'12345 -6.75e10\ttrue "\xc3\xa9"', False)):
        found = [json.loads(value) for _, _, value in json_values(io.BytesIO(raw), brackets=brackets, place="x")]
        assert found == [12345, -6.75e10, True, 89 if brackets else "é"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'[{"text": "a"},\n {"text": "b"', r"x\.json:2: invalid JSON array: Expecting ',' delimiter"),
        (b'[{"text": "a"},\n {"text": "b"}\n', r"x\.json:3: invalid JSON array: expected ',' or ']'"),
        (b'[{"text": "a"}\n {"text": "b"}]', r"x\.json:2: invalid JSON array: expected ',' or ']'"),
        (b'[{"text": "a"},\n,]', r"x\.json:2: invalid JSON array: Expecting value"),
        (b'[{"text": "a"}] x', r"x\.json:1: invalid JSON array: text after the closing bracket"),
        (b'{\n"text": "a"}\n{"text"}', r"x\.json:3: invalid JSON: Expecting ':' delimiter"),
    ],
)
def test_a_damaged_array_or_object_is_named_by_its_line(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(raw)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "x.json")


def test_an_array_is_streamed(tmp_path: Path) -> None:
    """The peak of what cutting and reading allocate is a few windows, not the 30 MB of the file."""
    import tracemalloc

    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "a" * 1000}] * 30_000))
    tracemalloc.start()
    from meap_megatron.corpus.cutting import cut
    from meap_megatron.corpus.readers import ChunkReader

    chunks = cut(find_inputs([str(path)]).files[0], 2**23)
    assert sum(1 for chunk in chunks for _ in ChunkReader(chunk, key="text")) == 30_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20


def test_strings_of_every_arrow_type_are_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    texts = ["a", "é", None, "", "a"]
    plain = pyarrow.array(texts)
    types = {
        "string": plain,
        "large_string": plain.cast(pyarrow.large_string()),
        "string_view": plain.cast(pyarrow.string_view()),
        "binary": plain.cast(pyarrow.binary()),
        "large_binary": plain.cast(pyarrow.large_binary()),
        "dictionary": plain.dictionary_encode(),
        "large dictionary": plain.cast(pyarrow.large_string()).dictionary_encode(),
    }
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table(types), path)
    for name in types:
        given = [text for _, text in read(path, key=name)]
        assert given == [b"a", "é".encode(), f"{name!r} is null", b"", b"a"], name


def test_a_run_ends_with_what_was_read_skipped_and_dropped(
    tmp_path: Path, word_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lay(
        tmp_path / "in",
        {"a.jsonl": LINE + b'{"text": ""}\n', "b.json": b'[{"text": "b"},\n{"text": ""}]', "c.csv": b"", ".d": b""},
    )
    preprocess(config(folder, tmp_path / "out", word_tokenizer))
    assert documents(tmp_path / "out") == [[1, 3, 2], [1, 4, 2]]
    said = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith(("preprocess:", "meap: note"))
    ]
    assert said == [
        "meap: 2 files read, 2 skipped:",
        f"  hidden (1): {folder}/.d",
        f"  unknown suffix (1): {folder}/c.csv",
        "meap: 4 documents read, 2 kept, 2 dropped:",
        f"  empty (2): first {folder}/a.jsonl:2",
    ]


def test_strict_refuses_what_would_be_skipped_or_dropped(tmp_path: Path, word_tokenizer: Path) -> None:
    folder = lay(tmp_path / "in", {"a.jsonl": LINE, "b.csv": b""})
    with pytest.raises(UserError, match=r"--strict: 1 files would be skipped:\n  unknown suffix .1.: .*b\.csv"):
        preprocess(config(folder, tmp_path / "out", word_tokenizer, strict=True))
    empty = write_jsonl(tmp_path / "empty.jsonl", ["a", "", "b", ""])
    before = names(tmp_path)
    with pytest.raises(
        UserError, match=r"--strict: records would be dropped(.|\n)*  empty .2.: first .*empty\.jsonl:2"
    ):
        preprocess(config(empty, tmp_path / "out", word_tokenizer, strict=True))
    assert names(tmp_path) == before
    preprocess(config(folder / "a.jsonl", tmp_path / "out", word_tokenizer, strict=True))
    assert documents(tmp_path / "out") == [[1, 3, 2]]
