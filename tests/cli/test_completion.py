"""The shell completes verbs, options and choices; the overview has every verb under its task."""

import shutil
import subprocess
from pathlib import Path

import pytest

from meap_megatron.cli.main import TASKS, VERBS, main

COMPLETE = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$(({count} - 1)); COMP_LINE="{words}"; COMP_POINT=${{#COMP_LINE}}
_shtab_meap meap "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
echo "${{COMPREPLY[*]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "meap.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as stream:
        patch.setattr("sys.stdout", stream)
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "words, found",
    [
        (["meap", "conv"], "convert"),
        (["meap", "convert", "ex"], "export"),
        (["meap", "train", "--dry"], "--dry-run"),
        (["meap", "generate", "x", "--dtype", "fl"], "float32 float16"),
    ],
)
def test_bash_completes_verbs_options_and_choices(script: Path, words: list[str], found: str) -> None:
    code = COMPLETE.format(script=script, words=" ".join(words), count=len(words))
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == found, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script_with_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(verb.split()[0] in text for verb in VERBS)


def test_the_overview_has_every_verb_under_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.endswith(":") and line[0] != " "] == [
        f"{task}:" for task in TASKS
    ]
    assert all(f"  {verb} " in text for verb in VERBS)
