"""Switches that Megatron refuses by an assert after half a minute, or that nothing refuses, are named at once."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def given(*terms: str) -> Settings:
    """Return settings in which terms hold."""
    parts = [term.partition(" or ")[0].partition("=") for term in terms]
    return settings(**{name: yaml.safe_load(values.split(",")[0] or "2") for name, _, values in parts})


@pytest.mark.parametrize("row", switches.REFUSED, ids=lambda row: row[0])
def test_a_refused_switch_is_named_with_reason_and_remedy(row: tuple[str, str, str]) -> None:
    term, why, remedy = row
    name, _, values = term.partition("=")
    for value in values.split(",") if values else ("2",):
        said = f"r.yaml:3: {name}={value} is refused: {why}; {remedy}"
        assert said in switches.findings(settings(**{name: yaml.safe_load(value)}))
    assert not list(switches.findings(settings(**{name: None})))


@pytest.mark.parametrize("row", switches.NEEDED, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_switch_without_what_it_needs_is_named(row: tuple[str, str, str]) -> None:
    term, needed, why = row
    alone = [said for said in switches.findings(given(term)) if f" needs {needed}: {why}" in said]
    assert len(alone) == 1 and alone[0].startswith(f"r.yaml:3: {term.partition('=')[0]}=")
    assert not [said for said in switches.findings(given(term, needed)) if f" needs {needed}" in said]


@pytest.mark.parametrize("row", switches.FORBIDDEN, ids=lambda row: f"{row[0]}-{row[1]}")
def test_two_switches_that_exclude_each_other_are_named(row: tuple[str, str, str]) -> None:
    term, other, why = row
    said = [one for one in switches.findings(given(term, other)) if f"are both given: {why}; leave one out" in one]
    assert any(f" and {other.partition('=')[0]}=" in one for one in said)
    assert not [one for one in switches.findings(given(term)) if " are both given" in one]


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
