"""Findings on packages: versions that were not tested, too old ones, broken ones, and what fixes them."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from meap_megatron.doctor import packages

TORCH = next(part for part in packages.PARTS if part.key == "torch")
APEX = next(part for part in packages.PARTS if part.key == "apex")
NATIVE = next(part for part in packages.PARTS if part.key == "native")
ENGINE = next(part for part in packages.PARTS if part.key == "transformer_engine")
MEGATRON = next(part for part in packages.PARTS if part.key == "megatron")
WORKS = {"facts": {"version": "", "cuda": "13.2", "gpu_build": True}}


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch):
    """Return a function that replaces what is installed."""
    monkeypatch.delenv("NVIDIA_PYTORCH_VERSION", raising=False)
    monkeypatch.setattr(packages, "requires", lambda name: ["torch>=2.9", "megatron-core[training]<0.20,>=0.19.2"])

    def install(**there: str) -> None:
        def version(name: str) -> str:
            if name.replace("-", "_") not in there:
                raise PackageNotFoundError(name)
            return there[name.replace("-", "_")]

        monkeypatch.setattr(packages, "version", version)

    return install


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    text = (Path(__file__).parents[2] / "constraints.txt").read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))
    assert packages.TESTED == {name: pinned[name] for name in packages.TESTED}


def test_a_version_that_was_not_tested_is_named_with_the_tested_one(versions) -> None:
    versions(torch="2.14.1+cu130")
    found = packages.package_finding(TORCH, WORKS)
    assert (found.state, found.version, found.fails) == ("differs", "2.14.1+cu130", False)
    assert "tested with 2.15.0" in found.detail


def test_a_local_build_of_the_tested_version_is_the_tested_version(versions) -> None:
    versions(torch="2.15.0+cu132")
    assert packages.package_finding(TORCH, WORKS).state == "ok"


def test_the_torch_of_nvidias_image_is_new_enough_although_it_is_called_a_prerelease(versions) -> None:
    versions(torch="2.13.0a0+9186a08b2c.nv26.7.59513937")
    assert packages.package_finding(TORCH, WORKS).state == "differs"


@pytest.mark.parametrize(("part", "there"), [(TORCH, {"torch": "2.6.0"}), (MEGATRON, {"megatron_core": "0.16.0"})])
def test_a_needed_package_that_is_too_old_fails(versions, part, there) -> None:
    versions(**there)
    found = packages.package_finding(
        part, {"facts": {"trainer": True, "triton": True, "cuda": "", "gpu_build": False}}
    )
    assert found.state == "broken" and found.fails
    assert "meap-megatron needs" in found.detail and "pip install --force-reinstall" in found.fix


def test_a_missing_optional_package_says_what_it_costs_and_does_not_fail(versions) -> None:
    versions()
    found = packages.package_finding(APEX, None)
    assert (found.state, found.fails) == ("missing", False)
    assert "weight gradients" in found.cost and "github.com/NVIDIA/apex" in found.fix


def test_in_nvidias_image_nobody_is_told_to_build_what_the_image_brings(versions, monkeypatch) -> None:
    versions()
    monkeypatch.setenv("NVIDIA_PYTORCH_VERSION", "26.07")
    assert "pip install" not in packages.package_finding(TORCH, None).fix
    assert "pytorch:26.07-py3" in packages.package_finding(TORCH, None).fix


def test_a_missing_needed_package_fails(versions) -> None:
    versions()
    assert packages.package_finding(TORCH, None).fails


def test_a_package_that_is_there_and_does_not_import_is_broken_with_its_reason(versions) -> None:
    versions(torch="2.15.0")
    found = packages.package_finding(TORCH, {"error": "ImportError: libcudart.so.13"})
    assert (found.state, found.version) == ("broken", "2.15.0") and "libcudart" in found.detail


def test_a_transformer_engine_that_cannot_be_loaded_is_broken_in_its_own_words(versions) -> None:
    versions(transformer_engine="2.20.2")
    found = packages.package_finding(ENGINE, {"error": "OSError: libcublasLt.so.13: cannot open shared object file"})
    assert found.state == "broken" and found.detail.startswith("OSError: libcublasLt.so.13")
    assert "transformer_impl=local" in found.cost and "--force-reinstall" in found.fix


def test_megatron_without_its_trainer_is_broken(versions) -> None:
    versions(megatron_core="0.19.2")
    found = packages.package_finding(MEGATRON, {"facts": {"trainer": False, "triton": True}})
    assert found.fails and "megatron.training" in found.detail


def test_apex_without_its_extensions_is_not_ok(versions) -> None:
    versions(apex="0.1")
    bare = packages.package_finding(APEX, {"facts": {"kernels": []}})
    whole = packages.package_finding(APEX, {"facts": {"kernels": ["fused_weight_gradient_mlp_cuda", "amp_C"]}})
    assert (bare.state, whole.state) == ("differs", "ok")
    assert bare.fix and not whole.fix


def test_a_native_module_of_another_version_is_broken() -> None:
    found = packages.package_finding(NATIVE, {"facts": {"version": "0.0.9"}})
    assert found.fails and "built from 0.0.9" in found.detail and "--no-deps" in found.fix


def test_other_packages_that_are_missing_or_old_are_named_with_one_command(versions, monkeypatch) -> None:
    versions(numpy="1.26.4")
    needs = ["numpy>=2.0", "pyarrow>=18", "torch>=2.9", 'scipy>=1.14; extra == "eval"']
    monkeypatch.setattr(packages, "requires", lambda name: needs)
    found = packages.requirements_finding()
    assert found.detail == "numpy: 1.26.4; pyarrow: missing" and found.fails
    assert found.fix.endswith("pip install 'numpy>=2.0' 'pyarrow>=18'")
