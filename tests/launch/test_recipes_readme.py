"""The numbers in the recipes' README are those of the recipes, and its estimates follow from its formula."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch.flags import read_flags
from meap_megatron.launch.precision import PRECISIONS
from meap_megatron.launch.recipe import Recipe, Setting, load
from tests.support.runs import RECIPES, ROOT

README = (RECIPES / "README.md").read_text(encoding="utf-8")
H100_FLOPS, MFU = 989e12, 0.40
ALPACA_EXAMPLES, TOKENS_PER_EXAMPLE = 52_002, 190
PUBLISHED_ROWS = {
    "sft/llama3_8b": 128_256,
    "sft/mistral_7b_v0.2": 32_000,
    "sft/qwen2.5_14b": 152_064,
    "sft/qwen3_8b": 151_936,
    "sft/qwen3_14b": 151_936,
}
"""Rows of the embedding, where the head is a table of its own: a lookup is no product."""


def rows(start: str) -> dict[str, list[str]]:
    """Return the README's table lines that begin with a recipe: name -> the other cells, without thousands separators."""
    lines = re.findall(rf"^\| `({start}/[^`*]+)` \|(.*)\|$", README, flags=re.MULTILINE)
    table = [(name, [cell.strip().replace(",", "") for cell in rest.split("|")]) for name, rest in lines]
    return {name: cells for name, cells in table if cells[0].isdecimal()}


def gpu_hours(recipe: Recipe, *, parameters: int, context: int, tokens: float) -> float:
    attention = 6 * recipe.get("num_layers") * recipe.get("num_attention_heads") * recipe.get("kv_channels") * context
    return tokens * (6 * parameters + attention) / (H100_FLOPS * MFU) / 3600


def test_the_pre_training_table_is_computed_from_the_recipes() -> None:
    table = rows("pretrain")
    assert len(table) == 4
    for name, (parameters, steps, tokens, hours) in table.items():
        recipe = load(RECIPES / f"{name}_ntp.yaml")
        assert int(steps) == recipe.get("train_iters")
        consumed = int(steps) * recipe.get("global_batch_size") * recipe.get("seq_length")
        assert tokens == f"{consumed / 1e9:.2f} B"
        products = int(parameters) - 32_064 * recipe.get("hidden_size")
        estimate = gpu_hours(recipe, parameters=products, context=recipe.get("seq_length"), tokens=consumed)
        assert float(hours) == pytest.approx(estimate, rel=0.05)


def test_the_fine_tuning_table_is_computed_from_the_recipes() -> None:
    table = rows("sft")
    assert len(table) == 9
    for name, (parameters, epochs, hours) in table.items():
        ntp, meap = load(RECIPES / f"{name}_ntp.yaml"), load(RECIPES / f"{name}_meap.yaml")
        assert epochs == f"{ntp.get('meap_epochs')} / {meap.get('meap_epochs')}"
        tokens = ALPACA_EXAMPLES * TOKENS_PER_EXAMPLE * ntp.get("meap_epochs")
        products = int(parameters) - PUBLISHED_ROWS.get(name, 0) * ntp.get("hidden_size")
        estimate = gpu_hours(ntp, parameters=products, context=TOKENS_PER_EXAMPLE, tokens=tokens)
        assert float(hours) == pytest.approx(estimate, abs=0.06)


EVERY = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def test_the_table_of_layouts_is_that_of_the_recipes() -> None:
    lines = re.findall(r"^\| (`[^|]+) \| ((?:[DT]P \d|- \|).*) \|$", README, flags=re.MULTILINE)
    checked = 0
    for names, rest in lines:
        for pattern in re.findall(r"`([^`]+)`", names):
            for path in sorted(RECIPES.glob(f"{pattern}_ntp.yaml")):
                for gpus, cell in zip(EVERY, rest.split("|"), strict=True):
                    if cell.strip() == "-":
                        assert str(gpus) not in load(path).layouts
                        continue
                    recipe = load(path, [f"layout={gpus}"])
                    tensor = recipe.get("tensor_model_parallel_size")
                    pipeline = recipe.get("pipeline_model_parallel_size", 1)
                    said = [f"TP {tensor}"] * (tensor > 1) + [f"PP {pipeline}"] * (pipeline > 1)
                    assert cell.strip() == ", ".join([*said, f"DP {gpus // (tensor * pipeline)}"]), (path, gpus)
                    checked += 1
    assert checked == sum(len(load(path).layouts) for path in RECIPES.glob("[ps]*/*_ntp.yaml"))


def test_the_table_of_precisions_is_that_of_the_code() -> None:
    said = dict(re.findall(r"^\| `([a-z0-9-]+)` \| `?([^|`]*)`?", README, flags=re.MULTILINE))
    for name, settings in PRECISIONS.items():
        parts = [f"--fp8-{key} {settings[f'fp8_{key}']}" for key in ("format", "recipe") if f"fp8_{key}" in settings]
        assert said[name].strip() == (" ".join(["--bf16", *parts]) if settings else "none")


def test_every_precision_goes_with_every_layout_but_for_those_that_the_readme_names() -> None:
    flags = read_flags()
    refused = set()
    for path in sorted(RECIPES.glob("*/*_ntp.yaml")):
        for gpus in load(path).layouts:
            recipe = load(path, [f"layout={gpus}"])
            for precision in PRECISIONS:
                setting = Setting(value=precision, origin="test")
                try:
                    replace(recipe, settings=recipe.settings | {"precision": setting}).command_line(flags)
                except UserError:
                    refused.add((path.stem, precision, int(gpus)))
    assert refused == (
        {("llama_0.3b_ntp", precision, gpus) for precision in ("mxfp8", "fp8-blockwise") for gpus in EVERY}
        | {("llama_0.3b_ntp", precision, 512) for precision in ("fp8-delayed", "fp8-tensorwise")}
        | {(name, "fp8-blockwise", n) for name in ("qwen2.5_14b_ntp", "qwen3_4b_ntp") for n in EVERY if n >= 64}
    )


def test_every_file_that_the_readme_names_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (RECIPES / link).exists(), link
    for name in re.findall(r"`(\.\./sweeps/[^`]+)`", README) + [
        f"../../{p}" for p in re.findall(r"examples/\S+yaml", README)
    ]:
        assert (RECIPES / name).exists(), name
    for pattern in re.findall(r"`((?:pretrain|sft)/[^`*]*\{[^`]+)`", README):
        for path in expanded(pattern):
            assert (RECIPES / f"{path}.yaml").exists(), path
    assert Path(ROOT / "examples" / "sweeps").is_dir()


def expanded(pattern: str) -> list[str]:
    """Return what a shell makes of a pattern with {a,b}."""
    match = re.search(r"\{([^{}]+)\}", pattern)
    if not match:
        return [pattern]
    start, end = match.span()
    return [path for part in match[1].split(",") for path in expanded(pattern[:start] + part + pattern[end:])]
