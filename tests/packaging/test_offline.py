"""The offline bundle: one GPU architecture is kept byte for byte, and what is unpacked is what was packed."""

import hashlib
import importlib.util
import io
import os
import platform
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNPACK = ROOT / "tools" / "offline" / "unpack.sh"
BUNDLE = ROOT / "tools" / "gpu_bundle.sh"

spec = importlib.util.spec_from_file_location("keep_arch", ROOT / "tools" / "offline" / "keep_arch.py")
keep_arch = importlib.util.module_from_spec(spec)
sys.modules["keep_arch"] = keep_arch
spec.loader.exec_module(keep_arch)


def entry(kind, arch, payload):
    head = bytearray(64)
    struct.pack_into("<HHIQ", head, 0, kind, 1, len(head), len(payload))
    struct.pack_into("<I", head, 28, arch)
    return bytes(head) + payload


def container(*entries):
    body = b"".join(entry(*one) for one in entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(path, fatbin, *, name=b".nv_fatbin"):
    """Write an ELF file with code before and after the section of GPU code."""
    names = b"\0" + name + b"\0.shstrtab\0"
    start = 64 + 100
    names_at = start + len(fatbin) + 100
    table = names_at + len(names)
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 40, table)
    struct.pack_into("<HHH", header, 58, 64, 3, 2)

    def section(at, offset, size):
        return struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, offset, size, 0, 0, 1, 0)

    sections = section(0, 0, 0) + section(1, start, len(fatbin)) + section(2 + len(name), names_at, len(names))
    path.write_bytes(bytes(header) + b"c" * 100 + fatbin + b"d" * 100 + names + sections)
    return path


def test_only_payloads_of_other_architectures_become_zeros(tmp_path):
    two = container((2, 80, b"a" * 24), (2, 90, b"b" * 32), (1, 100, b"p" * 40))
    other = container((2, 80, b"e" * 16), (1, 80, b"q" * 16))  # no code for 90: its PTX is needed
    path = library(tmp_path / "lib.so", two + bytes(8) + other)
    before = path.read_bytes()
    found, whole = keep_arch.blank(path, 90)
    after = path.read_bytes()
    assert whole == 1
    assert after == before.replace(b"a" * 24, bytes(24)).replace(b"p" * 40, bytes(40))
    assert found == {"sm_80 blanked": 24, "sm_90 kept": 32, "PTX_100 blanked": 40, "sm_80 kept": 16, "PTX_80 kept": 16}


@pytest.mark.parametrize(
    "fatbin, name, arch, why",
    [
        (container((2, 80, b"a" * 8)), b".nv_fatbin", 90, "no code for sm_90"),
        (container((2, 90, b"a" * 8)), b".other", 90, "no section .nv_fatbin"),
        (b"12345678" + container((2, 90, b"a" * 8)), b".nv_fatbin", 90, "unknown bytes"),
        (container((7, 90, b"a" * 8)), b".nv_fatbin", 90, "unknown kind 7"),
    ],
)
def test_a_library_that_is_not_understood_is_refused_and_left_alone(tmp_path, fatbin, name, arch, why, monkeypatch):
    path = library(tmp_path / "lib.so", fatbin, name=name)
    before = path.read_bytes()
    monkeypatch.setattr(sys, "argv", ["keep_arch", "--arch", str(arch), str(path)])
    assert keep_arch.main() == 2
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=why):
        keep_arch.blank(path, arch)


@pytest.fixture
def machine(tmp_path):
    """A machine with a torch that says what it is, and a bundle for it beside the script that unpacks."""
    torch = tmp_path / "installed" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text(
        "class version: cuda = '13.0'\n__version__ = '2.11.0+cu130'\n", encoding="utf-8"
    )
    folder = tmp_path / "carried"
    folder.mkdir()
    (folder / "unpack.sh").write_bytes(UNPACK.read_bytes())
    bundle(folder)
    return tmp_path


def bundle(folder, *, torch="2.11.0", damage=False, sources="none"):
    tag = "cp" + "".join(platform.python_version_tuple()[:2])
    files = {
        "BUNDLE": f"torch=={torch} cuda 13.0 {tag}\ncsrc {sources}\n",
        "bundled_module.py": "VALUE = 7\n",
        "meap_megatron/_C.so": "native\n",
    }
    sums = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  ./{name}\n" for name, text in files.items())
    if damage:
        files["bundled_module.py"] = "VALUE = 8\n"
    archive = folder / "gpu-bundle-test.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for name, text in {**files, "SHA256SUMS": sums}.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.with_name(f"{archive.name}.sha256").write_text(f"{digest}  {archive.name}\n")
    return archive


def shell(machine, script):
    interpreters = f"{machine / 'bin'}:/usr/bin:/bin"
    (machine / "bin").mkdir(exist_ok=True)
    python = machine / "bin" / "python3"
    if not python.exists():
        python.symlink_to(sys.executable)
    environ = {"PATH": interpreters, "PYTHONPATH": str(machine / "installed"), "TMPDIR": str(machine)}
    return subprocess.run(
        ["bash", "-c", script, "bash", "an", "argument"], cwd=machine, capture_output=True, text=True, timeout=60,
        env=environ,
    )  # fmt: skip


def test_sourcing_verifies_unpacks_and_sets_the_environment(machine):
    script = ". carried/unpack.sh && python3 -c 'import bundled_module; print(bundled_module.VALUE)' && env"
    first = shell(machine, script)
    assert first.returncode == 0, first.stderr
    assert "\n7\n" in first.stdout and "HF_HUB_OFFLINE=1" in first.stdout
    site = machine / "meap-site"
    (site / "bundled_module.py").write_text("VALUE = 9\n")
    again = shell(machine, script)
    assert "\n9\n" in again.stdout, "what was verified once is used again"


def test_run_instead_of_sourced_it_prints_the_lines_to_set(machine):
    done = shell(machine, "bash carried/unpack.sh")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and all(line.startswith("export ") for line in lines)
    assert lines[0].startswith(f"export PYTHONPATH={machine / 'meap-site'}")


def test_a_damaged_archive_a_damaged_file_and_another_torch_are_refused(machine):
    archive = machine / "carried" / "gpu-bundle-test.tar.xz"
    sum_file = archive.with_name(f"{archive.name}.sha256")
    content = archive.read_bytes()
    archive.write_bytes(content[:-9] + b"damaged..")
    done = shell(machine, ". carried/unpack.sh")
    assert done.returncode == 1 and "is damaged; copy it again" in done.stderr
    assert not (machine / "meap-site").exists()
    bundle(machine / "carried", damage=True)
    done = shell(machine, ". carried/unpack.sh")
    assert done.returncode == 1 and "a file in" in done.stderr and "bundled_module.py" in done.stdout + done.stderr
    bundle(machine / "carried", torch="2.10.0")
    done = shell(machine, ". carried/unpack.sh")
    assert done.returncode == 2 and "the bundle is for torch==2.10.0" in done.stderr and "2.11.0" in done.stderr
    sum_file.unlink()
    archive.unlink()
    done = shell(machine, ". carried/unpack.sh")
    assert done.returncode == 2 and "MEAP_BUNDLE" in done.stderr


def test_a_checkout_gets_the_native_module_of_its_own_sources_only(machine):
    for name, text in {"csrc/a.cpp": "int a;", "csrc/b/c.hpp": "int c;", "meap_megatron/__init__.py": ""}.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text)
    done = shell(machine, ". carried/unpack.sh")
    assert done.returncode == 2 and "of other sources than csrc" in done.stderr and "build_ext" in done.stderr
    assert not (machine / "meap_megatron" / "_C.so").exists()
    [line] = [line for line in BUNDLE.read_text().splitlines() if line.startswith("sources()")]
    of_bundle_script = subprocess.run(["bash", "-c", f'{line}\nsources "{machine}"'], capture_output=True, text=True)
    bundle(machine / "carried", sources=of_bundle_script.stdout.strip())
    done = shell(machine, ". carried/unpack.sh")
    assert done.returncode == 0, done.stderr
    assert (machine / "meap_megatron" / "_C.so").read_text() == "native\n"


def test_a_folder_with_other_files_is_not_emptied(machine):
    (machine / "mine").mkdir()
    (machine / "mine" / "thesis.tex").write_text("years of work")
    done = shell(machine, "MEAP_SITE=mine . carried/unpack.sh")
    assert done.returncode == 2 and "holds other files" in done.stderr
    assert (machine / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "words, why",
    [
        ([], "give the folder"),
        (["out", "--arch", "hopper"], "--arch hopper"),
        (["out", "--package", "lm-eval"], "NAME==VERSION"),
        (["out", "--engine-wheel", "/nowhere.whl"], "no such file"),
        (["out", "--torch"], "--torch needs a value"),
        (["out", "--fast"], "unknown option --fast"),
        (["out", "--python", "/bin/false"], "not Python 3.12"),
    ],
)
def test_the_bundle_script_refuses_wrong_options_before_it_downloads(tmp_path, words, why):
    done = subprocess.run(
        ["bash", str(BUNDLE), *words], cwd=tmp_path, capture_output=True, text=True, timeout=30,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 2 and why in done.stderr
    assert not list(tmp_path.iterdir())
