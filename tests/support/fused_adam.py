"""Runs that change their optimizer at every save: torch's AdamW, the fused Adam of Transformer Engine, torch's AdamW.

    python -m tests.support.fused_adam FOLDER FLAG... [-- FLAG...]

For the n-th list of flags, FOLDER/whole-n is one run of 6 steps with AdamW. FOLDER/moved-n is the same run in three parts of
2 steps; the second one has `FusedAdam` below in the place of Transformer Engine's, in all that Megatron sees of it.
"""

import multiprocessing
import sys
from typing import Any

from meap_megatron.launch import runtime
from meap_megatron.training.pretrain import before_forks

STEPS = 2


def fused_adam() -> type:
    """Return an optimizer with the state, the groups and the strictness of Transformer Engine's FusedAdam."""
    import torch

    class FusedAdam(torch.optim.Optimizer):
        def __init__(self, params: Any, *, adam_w_mode: bool, capturable: bool = False, **options: Any) -> None:
            assert adam_w_mode and not capturable
            super().__init__(params, {"bias_correction": True, **options})

        def load_state_dict(self, state_dict: Any) -> None:
            super().load_state_dict(state_dict)
            for moments in self.state.values():
                for name in moments:
                    {"exp_avg": torch.float32, "exp_avg_sq": torch.float32}[name]

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                group["step"] = group.get("step", 0) + 1
                if type(group["step"]) is not int:
                    raise TypeError("multi_tensor_adam(): incompatible function arguments")
                beta1, beta2 = group["betas"]
                for parameter in group["params"]:
                    own, gradient = self.state[parameter], parameter.grad
                    if not own:
                        own |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                    own["exp_avg"].lerp_(gradient, 1 - beta1)
                    own["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                    first, second = own["exp_avg"], own["exp_avg_sq"]
                    if group["bias_correction"]:
                        first, second = first / (1 - beta1 ** group["step"]), second / (1 - beta2 ** group["step"])
                    update = first / (second.sqrt() + group["eps"]) + group["weight_decay"] * parameter
                    parameter.add_(update, alpha=-group["lr"])

    return FusedAdam


def part(argv: list[str], *, fused: bool) -> None:
    """Be one run."""
    if fused:
        from megatron.core import optimizer
        from megatron.core.optimizer import distrib_optimizer

        adam = fused_adam()
        optimizer.Adam, optimizer.USING_PYTORCH_OPTIMIZER = adam, False
        distrib_optimizer.Adam, distrib_optimizer.HAVE_APEX_OR_TE, distrib_optimizer.USING_TE_OPTIMIZER = (
            adam,
            True,
            True,
        )
    from meap_megatron.training import pretrain

    sys.exit(pretrain.main(argv))


def runs(folder: str, number: int, flags: list[str]) -> list[tuple[list[str], bool]]:
    """Return the command lines of one list of flags, and whether FusedAdam is used."""
    own = [*flags, f"--train-iters={3 * STEPS}"]
    whole = [*own, f"--meap-metrics={folder}/whole-{number}/metrics.jsonl"]
    moved = [*own, f"--save={folder}/moved-{number}", f"--load={folder}/moved-{number}", f"--save-interval={STEPS}"]
    part = [*moved, f"--exit-interval={STEPS}"]
    return [(whole, False), (part, False), (part, True), (moved, False)]


def main(folder: str, words: list[str]) -> int:
    """Run all parts one after the other; return the first status that is not 0."""
    runtime.set_thread_policy()
    before_forks()
    lists: list[list[str]] = [[]]
    for word in words:
        lists.append([]) if word == "--" else lists[-1].append(word)
    for argv, fused in (run for number, flags in enumerate(lists) for run in runs(folder, number, flags)):
        process = multiprocessing.get_context("fork").Process(target=part, args=(argv,), kwargs={"fused": fused})
        process.start()
        process.join()
        if process.exitcode:
            return process.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
