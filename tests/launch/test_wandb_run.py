"""A lost W&B service does not end a training run."""

import subprocess
import sys
from pathlib import Path

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch.named_settings import of_command_line
from meap_megatron.launch.wandb_run import Expendable, environment


class Run:
    name = "mine"

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        if step == 2:
            raise ConnectionResetError("Connection lost")
        self.logged.append((values, step))


def test_after_a_failure_training_goes_on_and_says_so_once() -> None:
    said: list[str] = []
    run = Run()
    expendable = Expendable(run, said.append)
    for step in (1, 2, 3):
        expendable.log({"loss": 1.0}, step)
    assert run.logged == [({"loss": 1.0}, 1)]
    assert said == ["W&B: no longer logging (ConnectionResetError: Connection lost); metrics.jsonl continues"]
    assert expendable.name == "mine"


def test_the_real_service_may_be_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal, subprocess, wandb\n"
        "from meap_megatron.launch.wandb_run import Expendable\n"
        "said = []\n"
        "run = Expendable(wandb.init(project='test', mode='offline', settings={'silent': True}), said.append)\n"
        "run.log({'loss': 1.0}, 1)\n"
        "children = subprocess.run(['pgrep', '-P', str(os.getpid())], capture_output=True, text=True).stdout.split()\n"
        "services = [int(pid) for pid in children if 'wandb' in open(f'/proc/{pid}/cmdline').read()]\n"
        "assert services\n"
        "for pid in services: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)\n"
        "for step in range(2, 50): run.log({'loss': 1.0}, step)\n"
        "print(len(said), flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["1"]), done.stderr[-2000:]


def test_without_a_key_a_run_is_logged_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    settings = of_command_line(["--wandb-project=p", f"--save={tmp_path}"])
    home = {"HOME": str(tmp_path)}
    assert environment(settings, home)["WANDB_MODE"] == "offline"
    assert "WANDB_MODE" not in environment(settings, home | {"WANDB_API_KEY": "k"})
    assert "WANDB_MODE" not in environment(settings, home | {"WANDB_MODE": "online"})
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password key\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert "WANDB_MODE" not in environment(settings, home)
    assert environment(settings, home | {"WANDB_BASE_URL": "https://wandb.example.org"})["WANDB_MODE"] == "offline"
    assert environment(of_command_line([f"--save={tmp_path}"]), home) == {}


def test_a_missing_package_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb, or leave wandb_project out"):
        environment(of_command_line(["--wandb-project=p", f"--save={tmp_path}"]), {})
