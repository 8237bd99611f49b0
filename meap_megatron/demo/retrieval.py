"""The last act of the demo: both arms become Hugging Face folders, and each looks for a needle in a small haystack.

Everything goes through the verbs that a user has (`meap convert export`, `meap evaluate`), the two arms side by side.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from meap_megatron.demo.arms import DemoArm
from meap_megatron.demo.sizes import ARMS, DemoSizes

SUITE = "needle"
DEPTHS = "0,50,100"  # percent
NEEDED = ("lm_eval", "needlehaystack", "rouge_score")
"""Of the extra [eval]; a plain installation lacks them."""
EXPECTED = (
    "A model of this size, trained for minutes on source code, cannot retrieve yet: expect its score at the floor, the "
    "same prompts without the needle, and at 0 where it answers in code. The test shows that export and evaluation work; "
    "nothing follows from it about the paper or about the arms."
)


def missing_packages() -> list[str]:
    """Return what the evaluation needs and this environment lacks."""
    return [name for name in NEEDED if find_spec(name) is None]


def skipped(missing: Sequence[str]) -> str:
    """Return in one line what was left out, and how to get it."""
    return f"retrieval evaluation skipped, {', '.join(missing)} not installed: pip install 'meap-megatron[eval]'"


def export_arguments(out: Path, name: str) -> list[str]:
    """Return the arguments of `meap` that make a Hugging Face folder of an arm."""
    return ["convert", "export", str(out / "runs" / name), str(out / "hf" / name)]


def evaluate_arguments(out: Path, name: str, plan: DemoSizes) -> list[str]:
    """Return the arguments of `meap` that run the needle test on an arm's Hugging Face folder, results in its subfolder."""
    arguments = ["evaluate", SUITE, "--model", str(out / "hf" / name), "--lengths", str(plan.seq_length)]
    return [*arguments, "--depths", DEPTHS, "--device", "cpu"]


def exports(out: Path) -> list[DemoArm]:
    """Return the exports of both arms."""
    return [DemoArm(name=name, arguments=export_arguments(out, name)) for name in ARMS]


def evaluations(out: Path, plan: DemoSizes) -> list[DemoArm]:
    """Return the evaluations of both arms."""
    return [DemoArm(name=name, arguments=evaluate_arguments(out, name, plan)) for name in ARMS]


def result_folders(out: Path, *, evaluated: bool) -> list[str]:
    """Return the folders of both arms as `meap report` takes them."""
    folders = ("runs", "hf") if evaluated else ("runs",)
    return [f"{name.upper()}={out / folder / name}" for name in ARMS for folder in folders]
