"""No module replaces a name of another one at run time, unless the list says so and why; upstream still has every name."""

import ast

import pytest

from meap_megatron.errors import RunError
from meap_megatron.training.patches import redirect
from meap_megatron.training.patches.assignments import ASSIGNMENTS
from meap_megatron.training.patches.entries import Assignment
from tests.test_imports import KNOWN

STANDARD = ("os.environ", "sys.argv")
"""Of the standard library: an environment for children, and Megatron's parser reads sys.argv."""
CHANGES = ("update", "setdefault", "pop", "clear")


def imported(tree: ast.AST) -> dict[str, str]:
    """Return what imported names mean: name -> module, or module and attribute."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.partition(".")[0]: a.asname and a.name or a.name.partition(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def changed(tree: ast.AST) -> set[str]:
    """Return the names of other modules that a file assigns to, deletes or fills: "module.path"."""
    known, found = imported(tree), set()
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = [one for target in node.targets for one in getattr(target, "elts", [target])]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            targets = [ast.Subscript(value=node.func.value)]  # type: ignore[call-arg]
        for target in targets:
            path: list[str] = []
            while isinstance(target, ast.Attribute | ast.Subscript):
                path += [target.attr] if isinstance(target, ast.Attribute) else []
                target = target.value
                if isinstance(target, ast.Name) and target.id in known:
                    found.add(".".join([known[target.id], *reversed(path)]))
    return found


def test_every_replacement_outside_of_the_installer_is_on_the_list() -> None:
    found = {
        (name, target)
        for name, path in KNOWN.items()
        for target in changed(ast.parse(path.read_text()))
        if target not in STANDARD
    }
    listed = {(one.where, one.target.partition("[")[0].replace(":", ".")) for one in ASSIGNMENTS}
    assert found == listed


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.compile = None",
        "def f():\n    import torch.utils as u\n    u.data = 1",
        "from a.b import TABLE\nTABLE[1] = 2",
        "import torch\na, torch.compile = 1, 2",
        "import sys\nsys.modules.update({})",
        "import sys\ndel sys.modules['a']",
    ],
)
def test_every_way_to_replace_a_name_is_seen(text: str) -> None:
    assert len(changed(ast.parse(text))) == 1


def test_a_writer_that_upstream_renamed_ends_the_start_and_not_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Assignment(target="megatron.training.global_vars:_RENAMED", where="training.metrics_writer", why="metrics")
    monkeypatch.setattr(redirect, "_installed", [])
    monkeypatch.setattr(redirect, "ALWAYS", ())
    monkeypatch.setattr(redirect, "ASSIGNMENTS", (gone,))
    with pytest.raises(RunError, match=r"_RENAMED does not exist in the installed version.*\(metrics\)"):
        redirect.install(device="cuda")
