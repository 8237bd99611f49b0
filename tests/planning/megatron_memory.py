"""What Megatron's own `theoretical_memory_usage` says of recipes, as JSON.

    python -m tests.planning.megatron_memory '[["sft/llama3_8b_ntp", 8, 128256, ["layout=8"]]]'

A program of its own, because Megatron keeps parsed arguments in globals. The arguments are those that Megatron's parser
makes of each recipe, for a job of which this process is the last rank.
"""

import contextlib
import io
import json
import sys
from typing import Any

from tests.support.judge_recipes import parsed

from megatron.training import theoretical_memory_usage as theory  # isort: skip


def figures(name: str, gpus: int, rows: int, overrides: list[str]) -> dict[str, float]:
    """Return parameters, and bytes of the first stage.

    Megatron's calculation knows no context parallelism: it gets the tokens that a rank has, and the number of ranks over
    which the distributed optimizer splits its state.
    """
    words = [*overrides, "transformer_impl=transformer_engine"]
    args: Any = parsed(name, *words, gpus=gpus, rows=rows)
    micro_batches = args.global_batch_size // (args.micro_batch_size * args.data_parallel_size)
    args.seq_length //= args.context_parallel_size
    args.data_parallel_size *= args.context_parallel_size
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        state = theory.compute_weight_and_optimizer_memory(args, verbose=True)
        activations = theory.compute_activation_memory(args, micro_batches)
    total = next(line for line in said.getvalue().splitlines() if line.startswith("Total number of parameters"))
    return {"billions": float(total.split(":")[1]), "state": state, "activations": activations}


if __name__ == "__main__":
    print(json.dumps([figures(*question) for question in json.loads(sys.argv[1])]))
