"""Switches that Megatron refuses by an assert after half a minute, or that nothing refuses, are named at once."""

import ast
import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from meap_megatron.launch import rules, switches
from meap_megatron.launch.flags import read_flags
from meap_megatron.launch.named_settings import Settings
from meap_megatron.launch.recipe import Setting
from tests.support.runs import ROOT, python

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
        assert said in map(str, switches.findings(settings(**{name: yaml.safe_load(value)})))
    assert not list(switches.findings(settings(**{name: None})))


@pytest.mark.parametrize("row", switches.NEEDED, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_switch_without_what_it_needs_is_named(row: tuple[str, str, str]) -> None:
    term, needed, why = row
    alone = [said for said in map(str, switches.findings(given(term))) if f" needs {needed}: {why}" in said]
    assert len(alone) == 1 and alone[0].startswith(f"r.yaml:3: {term.partition('=')[0]}=")
    assert not [said for said in map(str, switches.findings(given(term, needed))) if f" needs {needed}" in said]


NOT_ASSERTED = {
    "fp4_recipe=custom needs fp4_quantizer_factory",  # asked of Transformer Engine's version first
    "multiple_validation_sets=true needs full_validation=true",  # fails at the first validation
    "moe_use_upcycling=true needs num_experts",
    "moe_grouped_gemm=true needs num_experts",
}
"""Rules of which Megatron's validation says nothing here."""


def test_megatron_itself_refuses_a_switch_without_what_its_rule_asks_for_and_comes_further_with_it() -> None:
    judged = json.loads(python("-m", "tests.support.judge_switches").splitlines()[-1])
    assert len(judged) == len(switches.NEEDED)
    wrong = {
        rule: [said for *_, said in pair]
        for rule, pairs in judged.items()
        for pair in pairs
        if not pair[0][:2] > pair[1][:2]
    }
    assert wrong.keys() == NOT_ASSERTED, wrong


def test_every_rule_names_settings_that_a_recipe_can_have() -> None:
    rows = [*switches.REFUSED, *switches.NEEDED, *switches.FORBIDDEN]
    named = {switches.name_of(row[0]) for row in rows}
    named |= {switches.name_of(one) for row in rows[len(switches.REFUSED) :] for one in row[1].split(" or ")}
    assert not named - read_flags().keys()


@pytest.mark.parametrize("row", switches.FORBIDDEN, ids=lambda row: f"{row[0]}-{row[1]}")
def test_two_switches_that_exclude_each_other_are_named(row: tuple[str, str, str]) -> None:
    term, other, why = row
    found = map(str, switches.findings(given(term, other)))
    said = [one for one in found if f"are both given: {why}; leave one out" in one]
    assert any(f" and {other.partition('=')[0]}=" in one for one in said)
    assert not [one for one in map(str, switches.findings(given(term))) if " are both given" in one]


def test_the_rules_of_switches_are_among_those_of_every_run() -> None:
    found = rules.findings(settings(mtp_num_layers=1), world=1)
    assert any("mtp_num_layers=1 is refused" in str(error) for error in found)


VALIDATED = {
    "training/arguments.py:validate_args": "3e84cf595e56",
    "core/transformer/transformer_config.py:TransformerConfig": "abe98358ddea",
    "core/transformer/transformer_config.py:MLATransformerConfig": "1654971ab010",
    "core/model_parallel_config.py:ModelParallelConfig": "94ea5c4ae090",
    "core/optimizer/optimizer_config.py:OptimizerConfig": "91554a4f570b",
    "core/distributed/distributed_data_parallel_config.py:DistributedDataParallelConfig": "b13809680d06",
}
"""Where Megatron checks settings, and a digest of the conditions of all its asserts and raises there."""


def conditions(place: str) -> dict[int, list[ast.expr]]:
    """Return line -> the tests around and in it, for every assert and raise of a function or a class's `__post_init__`."""
    spec = importlib.util.find_spec("megatron")
    assert spec is not None and spec.submodule_search_locations
    file, _, name = place.partition(":")
    tree = ast.parse((Path(next(iter(spec.submodule_search_locations))) / file).read_text())
    node: Any = next(node for node in tree.body if getattr(node, "name", "") == name)
    if isinstance(node, ast.ClassDef):
        node = next(one for one in node.body if getattr(one, "name", "") == "__post_init__")
    found: dict[int, list[ast.expr]] = {}

    def visit(node: ast.AST, tests: list[ast.expr]) -> None:
        if isinstance(node, ast.Assert | ast.Raise):
            found[node.lineno] = [*tests, *([node.test] if isinstance(node, ast.Assert) else [])]
        inner = [*tests, node.test] if isinstance(node, ast.If) else tests
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(node, [])
    return found


@pytest.mark.parametrize("place", VALIDATED)
def test_megatron_checks_what_it_checked_when_the_rules_here_were_read(place: str) -> None:
    """Where this fails after an upgrade: compare the place in both versions, add rules, and write the new digest here."""
    text = "\n".join(" & ".join(map(ast.unparse, tests)) for tests in conditions(place).values())
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == VALIDATED[place]


def asserted() -> dict[int, set[str]]:
    """Return line -> settings, for every assert and raise of the installed Megatron's `validate_args`."""
    return {
        line: {
            one.attr
            for test in tests
            for one in ast.walk(test)
            if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "args"
        }
        for line, tests in conditions("training/arguments.py:validate_args").items()
    }


def test_no_rule_of_megatrons_validation_is_unknown_here() -> None:
    """A Megatron with a new assert fails here, and gets a rule or a line in NOT_OURS."""
    known = set(re.findall(r"\w+", " ".join(path.read_text() for path in LAUNCH.glob("*.py"))))
    found = asserted()
    assert len(found) > 150
    unknown = {line: names for line, names in found.items() if not names & (known | NOT_OURS.keys())}
    assert not unknown
