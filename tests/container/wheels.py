"""Wheels that hold metadata only, so that pip can resolve and install without a network and without a gigabyte of torch."""

import zipfile
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path


def make(folder: Path, name: str, version: str, *, requires: Iterable[str] = (), extras: Iterable[str] = ()) -> Path:
    """Write one wheel and return its path."""
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {need}" for need in requires]
    files = {
        f"{stem}.dist-info/METADATA": "\n".join([*lines, ""]),
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{stem}.dist-info/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{stem}.dist-info/RECORD"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def mirror(folder: Path, *, without: Iterable[str] = ()) -> None:
    """Write a wheel for every distribution of this environment, with its true name, version and requirements."""
    for found in distributions():
        name = found.metadata["Name"]
        if name and name not in without:
            extras = found.metadata.get_all("Provides-Extra") or ()
            make(folder, name, found.version, requires=found.requires or (), extras=extras)
