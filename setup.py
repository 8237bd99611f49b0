"""Build the native module `meap_megatron._C` (C++17, pybind11); everything else stands in pyproject.toml.

The build needs a C++17 compiler and nothing else: not torch, not CUDA. A failed build fails the installation.
"""

import os
import re
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "meap_megatron/version.py").read_text()).group(1)

# No -march=native: a wheel must run on every x86-64 or arm64 machine.
# -ffp-contract=off: doubles of masking settings are those of Python on every machine.
COMPILE_ARGS = ["-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-fvisibility=hidden"]
LINK_ARGS: list[str] = []
# MEAP_SANITIZE=address,undefined builds the module for a sanitizer run.
if sanitizers := os.environ.get("MEAP_SANITIZE"):
    COMPILE_ARGS += ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitizers}"]
    LINK_ARGS += [f"-fsanitize={sanitizers}"]

setup(
    # A user without a checkout has the recipes too: `meap init --examples`.
    packages=[*find_namespace_packages(include=["meap_megatron*"]), "meap_megatron.examples"],
    package_dir={"meap_megatron.examples": "examples"},
    ext_modules=[
        Pybind11Extension(
            "meap_megatron._C",
            sources=["csrc/bindings.cpp"],
            include_dirs=["csrc"],
            depends=[
                "meap_megatron/version.py",
                *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.hpp")),
            ],
            define_macros=[("MEAP_VERSION", f'"{VERSION}"')],
            cxx_std=17,
            extra_compile_args=COMPILE_ARGS,
            extra_link_args=LINK_ARGS,
        )
    ],
    cmdclass={"build_ext": build_ext},
)
