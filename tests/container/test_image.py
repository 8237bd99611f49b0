"""The record of what the image brought."""

from pathlib import Path

import pytest

from meap_megatron.doctor import cluster, image

IMAGE = {"torch": "2.13.0a0+9186a08b2c.nv26.7", "apex": "0.1", "transformer-engine": "2.17.0", "numpy": "1.26.4"}


def test_names_are_compared_as_pip_compares_them() -> None:
    assert image.pins(["Transformer_Engine==2.17.0+abc", "# torch==1", "numpy>=2", "a==1 ; python_version > '3'"]) == {
        "transformer-engine": "2.17.0+abc",
        "a": "1",
    }


def test_the_constraints_keep_what_is_protected_and_pin_only_what_is_not_there() -> None:
    tested = {
        "torch": "2.15.0",
        "numpy": "2.3.5",
        "transformers": "5.23.0",
        "nvidia-cublas": "13.4",
        "triton": "3.9.0",
    }
    assert image.constraints(IMAGE, tested) == [
        "apex==0.1",
        "torch==2.13.0a0+9186a08b2c.nv26.7",
        "transformer-engine==2.17.0",
        "transformers==5.23.0",
    ]


def test_a_changed_and_a_missing_package_are_named_and_others_are_not() -> None:
    now = {"torch": "2.15.0", "apex": "0.1", "numpy": "2.3.5", "flash-attn": "2.8"}
    assert image.changes(IMAGE, now) == [
        "torch: 2.13.0a0+9186a08b2c.nv26.7 -> 2.15.0",
        "transformer-engine: 2.17.0 -> gone",
    ]


@pytest.mark.parametrize("name", ["torchvision", "torch-tensorrt", "flash-attn-3", "nvidia-dali-cuda130", "triton"])
def test_what_is_built_for_the_images_cuda_is_protected(name: str) -> None:
    assert image.PROTECTED.match(name)


@pytest.mark.parametrize("name", ["transformers", "numpy", "apexpy", "pytorch-lightning", "tokenizers"])
def test_what_can_be_replaced_is_not(name: str) -> None:
    assert not image.PROTECTED.match(name)


def test_writing_and_checking_this_environment_agree_and_a_change_is_found(tmp_path: Path, capsys) -> None:
    file = tmp_path / "image.txt"
    assert image.main(["write", str(file)]) == 0 and image.main(["check", str(file)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["image.txt"]
    file.write_text(file.read_text().replace("\ntorch==", "\ntorch==0."))
    assert image.main(["check", str(file)]) == 1
    assert "torch: 0." in capsys.readouterr().out


def test_the_doctor_says_inside_the_image_what_was_changed_since(tmp_path: Path) -> None:
    assert cluster.image_findings({}) == []
    file = tmp_path / "image.txt"
    file.write_text("apex==0.1\n")
    (found,) = cluster.image_findings({image.VARIABLE: str(file)})
    assert found.state == "differs" and found.detail == "apex: 0.1 -> gone" and "undefined symbols" in found.cost
    file.write_text("numpy==0\n")
    assert cluster.image_findings({image.VARIABLE: str(file)})[0].state == "ok"
