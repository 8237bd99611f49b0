"""The type stubs of the native module name exactly what it has."""

import ast
from pathlib import Path

from meap_megatron import _C

STUB = Path(_C.__file__).with_name("_C.pyi")


def named(body: list[ast.stmt]) -> set[str]:
    """Return what statements of a stub define."""
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return names | {
        node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def public(thing: object) -> set[str]:
    """Return the names of a module or class that a user may use, and its constructor and length."""
    own = vars(thing)
    return {name for name in own if not name.startswith("_")} | (own.keys() & {"__init__", "__len__", "__getitem__"})


def test_the_stub_names_every_function_and_class_and_no_other() -> None:
    assert named(ast.parse(STUB.read_text()).body) == public(_C) | {"__version__"}


def test_the_stub_of_each_class_names_its_methods_and_no_other() -> None:
    classes = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ClassDef)]
    assert classes
    for node in classes:
        assert named(node.body) == public(getattr(_C, node.name)), node.name
