"""What the Dockerfile promises, read from its text."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.container.dockerfile import ROOT, final, read

INSTRUCTIONS = read()
LAST = final(INSTRUCTIONS)


def words_of(name: str) -> list[str]:
    return [i.words for i in LAST if i.name == name]


def test_the_base_image_has_a_stated_tag_that_the_document_describes() -> None:
    (base,) = [i.words for i in INSTRUCTIONS if i.name == "FROM" and "/" in i.words]
    tag = re.fullmatch(r"nvcr\.io/nvidia/pytorch:(\d\d\.\d\d-py3) AS base", base)
    assert tag
    text = (ROOT / "docs/container.md").read_text()
    assert f"nvcr.io/nvidia/pytorch:{tag[1]}" in text
    for name in ("Python", "torch", "Transformer Engine", "Apex", "DALI", "CUDA", "NCCL"):
        assert re.search(rf"^\| {name} \| \S", text, re.M), name


def test_the_versions_are_written_down_before_anything_is_installed_and_compared_after_it() -> None:
    names = [(i.name, i.words) for i in LAST]
    write = next(k for k, (name, words) in enumerate(names) if name == "RUN" and "image.py write" in words)
    installs = [k for k, (name, words) in enumerate(names) if name == "RUN" and "pip install" in words]
    constraint = next(k for k, (name, words) in enumerate(names) if name == "ENV" and "PIP_CONSTRAINT=" in words)
    assert installs and write < constraint < min(installs)
    file = re.search(r"PIP_CONSTRAINT=(\S+)", names[constraint][1])[1]
    assert f"image.py write {file}" in names[write][1]
    for k in installs:
        assert names[k][1].rstrip().endswith(f"&& python /opt/meap/image.py check {file}"), "the step must end with it"


def test_no_step_lifts_the_constraints_except_for_building_the_wheel() -> None:
    for i in INSTRUCTIONS:
        lifted = i.name in ("RUN", "ENV") and re.search(r'PIP_CONSTRAINT=(""|\s|$)', i.words)
        assert not lifted or ("pip wheel" in i.words and "--no-deps" in i.words), i.words


def test_it_runs_as_a_user_that_is_not_root_with_meap_as_entry_point() -> None:
    assert words_of("USER")[-1] not in ("root", "0")
    after = [i.name for i in LAST][[i.name for i in LAST].index("USER") :]
    assert "RUN" not in after
    assert json.loads(words_of("ENTRYPOINT")[0])[-1] == "meap"


def test_its_health_is_asked_of_the_doctor_and_the_words_are_accepted() -> None:
    from meap_megatron.cli.main import main

    words = json.loads(re.search(r"\[.*\]", words_of("HEALTHCHECK")[0])[0])
    assert words[:2] == ["meap", "doctor"]
    assert main(words[1:]) == 0


def test_what_is_copied_is_sent_to_the_builder_and_is_enough_to_describe_the_package(tmp_path: Path) -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {w for i in INSTRUCTIONS if i.name == "COPY" for w in i.words.split()[:-1]}
    assert {word.split("/")[0] for word in copied} == sent
    for name in {i for i in copied if "/" not in i} - {"constraints.txt"}:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "dist_info"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("meap_megatron-*.dist-info/METADATA"))
