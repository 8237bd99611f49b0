"""The project's own recipes, sweeps and batch scripts: where they are, and how a batch script is submitted."""

import shlex
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
HOME = PACKAGE if (PACKAGE / "examples").is_dir() else PACKAGE.parent
"""The folder with `examples`: the package as a wheel installs it, else the checkout. MEAP_HOME of the batch scripts."""
COPY = "`meap init --examples` copies the project's own to ./examples"
"""What a user without a checkout does for a recipe or a sweep."""


def sbatch(script: str, arguments: Sequence[str], *, options: Sequence[str] = (), start: Path = Path()) -> str:
    """Return the command that submits a batch script of `examples/slurm`.

    Args:
        script: its name without the suffix.
        arguments: of the script.
        options: of sbatch.
        start: the folder in which the command will be run; its own `examples` come before the installed ones.
    """
    file = Path("examples", "slurm", f"{script}.sbatch")
    here = (start / file).is_file()
    command = shlex.join(["sbatch", *options, str(file if here else HOME / file), *arguments])
    return command if here else f"MEAP_HOME={shlex.quote(str(HOME))} {command}"
