"""One Weights & Biases run for one `save` folder, however often the job is started again."""

import contextlib
import importlib.util
import netrc
import secrets
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError, UserError
from meap_megatron.launch.named_settings import Settings

FILE_NAME = "wandb_run_id"
ID_LETTERS = string.ascii_lowercase + string.digits


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that let `wandb.init` continue the run of the `save` folder; {} if W&B is not used.

    Only the last rank, on which Megatron logs, or the launcher of all ranks reads or makes the file.

    Args:
        environ: RANK and WORLD_SIZE, if this is a rank; a WANDB_RUN_ID in it is left alone.

    Raises:
        UserError: the id cannot be read or written.
    """
    save = settings.get("save")
    if not settings.has("wandb_project"):
        return {}
    if int(environ.get("RANK", "0")) != int(environ.get("WORLD_SIZE", "1")) - 1:
        return {}
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "wandb_project is given and the package wandb is not installed",
            fix="pip install wandb, or leave wandb_project out",
        )
    found = {} if has_key(environ) or "WANDB_MODE" in environ else {"WANDB_MODE": "offline"}
    if not save or "WANDB_RUN_ID" in environ:
        return found
    return found | {"WANDB_RUN_ID": run_id(Path(str(save))), "WANDB_RESUME": environ.get("WANDB_RESUME", "allow")}


def has_key(environ: Mapping[str, str]) -> bool:
    """Tell whether wandb finds an API key: in WANDB_API_KEY, or in the file of `wandb login`."""
    if environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    home = Path(environ.get("HOME", "~")).expanduser()
    for path in (environ.get("NETRC"), home / ".netrc", home / "_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(str(path)).authenticators(host):
                return True
    return False


def run_id(save: Path) -> str:
    """Return the id in SAVE/wandb_run_id; the first call makes it.

    Raises:
        UserError: the file cannot be read or written.
    """
    path = save / FILE_NAME
    try:
        if path.exists() and (known := path.read_text(encoding="utf-8").strip()):
            return known
        made = "".join(secrets.choice(ID_LETTERS) for _ in range(8))
        save.mkdir(parents=True, exist_ok=True)
        replace_text(path, made + "\n")
    except (OSError, RunError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read or write {path}: {reason}", fix="set save to a folder that can be written"
        ) from None
    return made


class Expendable:
    """A W&B run whose failure does not end training.

    SLURM's SIGTERM goes to every process of a task, also to the service of wandb: it ends, and the next `log` raises, in the
    very step after which the trainer would save.
    """

    def __init__(self, run: Any, show: Callable[[str], None]) -> None:
        """Take the run, and what shows one line to people."""
        self._run, self._show, self._lost = run, show, False

    def __getattr__(self, name: str) -> Any:
        """Return the run's attribute; a method comes guarded."""
        value = getattr(self._run, name)
        return self._guarded(value) if callable(value) else value

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._lost:
                return None
            try:
                return method(*args, **kwargs)
            except Exception as error:
                self._lost = True
                self._show(f"W&B: no longer logging ({type(error).__name__}: {error}); metrics.jsonl continues")
                return None

        return call
