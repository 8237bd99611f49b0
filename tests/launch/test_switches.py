"""Switches that Megatron refuses by an assert after half a minute, or that nothing refuses, are named at once."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.launch import rules, switches
from meap_megatron.launch.named_settings import Settings
from meap_megatron.launch.recipe import Setting
from tests.support.runs import ROOT

LAUNCH = ROOT / "meap_megatron" / "launch"
NOT_OURS = {
    "world_size": "parallelism.of_world counts the processes",
    "fp4": "Megatron's name for fp4_format; needs Transformer Engine's version",
    "no_weight_decay_cond_type": "has one choice, which the parser checks",
    "gtp_weight_remat_size": "follows from tensor_parallel_num_weight_shards, which is refused",
    "log_max_attention_logit": "needs Transformer Engine's version",
}
"""Settings of asserts that no rule names, and why."""


def settings(**values: Any) -> Settings:
    return Settings(table={name: Setting(value=value, origin="r.yaml:3") for name, value in values.items()})


def some(values: tuple[Any, ...]) -> Any:
    return values[0] if values else 2


@pytest.mark.parametrize("row", switches.REFUSED, ids=lambda row: row[0])
def test_a_refused_switch_is_named_with_reason_and_remedy(row: tuple[Any, ...]) -> None:
    name, values, why, remedy = row
    for value in values or (2,):
        assert f"r.yaml:3: {name}={value} is refused: {why}; {remedy}" in switches.findings(settings(**{name: value}))
    assert not list(switches.findings(settings(**{name: None})))


@pytest.mark.parametrize("row", switches.NEEDED, ids=lambda row: f"{row[0]}-{row[2]}")
def test_a_switch_without_what_it_needs_is_named(row: tuple[Any, ...]) -> None:
    name, values, needed, with_values, why = row
    given = {name: some(values)}
    alone = [said for said in switches.findings(settings(**given)) if f" needs {needed}" in said]
    assert len(alone) == 1 and alone[0].startswith(f"r.yaml:3: {name}=") and why in alone[0]
    both = settings(**given, **{needed: some(with_values)})
    assert not [said for said in switches.findings(both) if f" needs {needed}" in said]


@pytest.mark.parametrize("row", switches.FORBIDDEN, ids=lambda row: f"{row[0]}-{row[2]}")
def test_two_switches_that_exclude_each_other_are_named(row: tuple[Any, ...]) -> None:
    name, values, other, other_values, why = row
    both = settings(**{name: some(values), other: some(other_values)})
    said = [one for one in switches.findings(both) if f" excludes {other}=" in one]
    assert len(said) == 1 and why in said[0]
    assert not [one for one in switches.findings(settings(**{name: some(values)})) if " excludes " in one]


def test_the_rules_of_switches_are_among_those_of_every_run() -> None:
    assert any("mtp_num_layers=1 is refused" in said for said in rules.findings(settings(mtp_num_layers=1), world=1))


def asserted() -> dict[int, set[str]]:
    """Return line -> settings, for every assert and raise of the installed Megatron's `validate_args`."""
    spec = importlib.util.find_spec("megatron")
    assert spec is not None and spec.submodule_search_locations
    path = Path(next(iter(spec.submodule_search_locations))) / "training" / "arguments.py"
    body = next(node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "validate_args")
    found: dict[int, set[str]] = {}

    def names(node: ast.AST) -> set[str]:
        return {
            one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "args"
        }

    def visit(node: ast.AST, conditions: set[str]) -> None:
        if isinstance(node, ast.Assert | ast.Raise):
            found[node.lineno] = names(node) | conditions
        inner = conditions | names(node.test) if isinstance(node, ast.If) else conditions
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(body, set())
    return found


def test_no_rule_of_megatrons_validation_is_unknown_here() -> None:
    """A Megatron with a new assert fails here, and gets a rule or a line in NOT_OURS."""
    known = set(re.findall(r"\w+", " ".join(path.read_text() for path in LAUNCH.glob("*.py"))))
    found = asserted()
    assert len(found) > 150
    unknown = {line: names for line, names in found.items() if not names & (known | NOT_OURS.keys())}
    assert not unknown
