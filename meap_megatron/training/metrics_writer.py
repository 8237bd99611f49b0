"""Glue between Megatron's globals and `metrics`: put `RunMetrics` in the place of Megatron's TensorBoard writer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from meap_megatron.launch.resume import LONGER
from meap_megatron.launch.wandb_run import Expendable
from meap_megatron.training.metrics import RunMetrics, RunShape
from meap_megatron.training.peak import gpu_peak_tflops, measured_cpu_tflops
from meap_megatron.training.work import flops_of_step

RECORDED = (
    "num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups seq_length padded_vocab_size "
    "micro_batch_size global_batch_size train_iters lr min_lr seed world_size tensor_model_parallel_size "
    "pipeline_model_parallel_size context_parallel_size data_parallel_size bf16 fp8 fp8_recipe meap_mask_ratio "
    "meap_mask_strategy meap_span_length meap_mask_seed meap_corruption meap_clean_fraction meap_skip_first "
    "meap_min_document_tokens meap_loss_on meap_pair meap_pair_weight data_path"
).split()
"""Settings that the "start" record holds."""


class Reporter:
    """Starts the metrics once the starting step is known, and times the steps; does nothing on other than the last rank."""

    def __init__(self, open_metrics: Callable[[], RunMetrics] | None) -> None:
        self.open_metrics = open_metrics
        self.metrics: RunMetrics | None = None

    def start(self) -> None:
        """Open the metrics; Megatron calls the dataset provider when a checkpoint, if any, is loaded."""
        if self.open_metrics is not None and self.metrics is None:
            from megatron.training import global_vars

            self.metrics = self.open_metrics()
            if self.metrics.last_step >= self.metrics.shape.train_steps:
                steps = self.metrics.shape.train_steps
                self.metrics.show(f"complete at step {steps} of {steps}; {LONGER}")
            global_vars._GLOBAL_TENSORBOARD_WRITER = self.metrics
            if global_vars._GLOBAL_WANDB_WRITER is not None:
                global_vars._GLOBAL_WANDB_WRITER = Expendable(global_vars._GLOBAL_WANDB_WRITER, self.metrics.show)

    def timed(self, forward_step: Callable[..., Any]) -> Callable[..., Any]:
        """Return `forward_step`, telling the metrics when the first forward pass of a training step begins."""

        def timed_forward_step(data_iterator: Any, model: Any, *rest: Any) -> Any:
            if self.metrics is not None and model.training:
                self.metrics.forward_begins()
            return forward_step(data_iterator, model, *rest)

        return timed_forward_step

    def last_step(self) -> int | None:
        """Return the last step that was done, None on a rank that reports nothing."""
        return None if self.metrics is None else self.metrics.last_step

    def close(self, *, failed: bool, last_line: Callable[[int], str | None] = lambda step: None) -> None:
        """Write the last record, and show what `last_line` says of the last step."""
        if self.metrics is not None:
            self.metrics.close(failed=failed)
            if (line := last_line(self.metrics.last_step)) is not None:
                self.metrics.show(line)
            self.metrics = None


def install_metrics(args: Any, *, device: str, screen: TextIO) -> Reporter:
    """Return the reporter of this rank; only the last rank, on which Megatron logs, reports anything."""
    if args.rank != args.world_size - 1:
        return Reporter(None)

    def open_metrics() -> RunMetrics:
        from megatron.training import get_tensorboard_writer

        steps = args.train_iters
        peak = args.meap_peak_tflops or peak_of_device(device)
        # In the loop if it falls due, then validation and test set.
        in_loop = args.iteration < steps and args.eval_interval and steps % args.eval_interval == 0
        tests = has_test_set(args.split) or args.test_data_path is not None or args.mock_data
        recorded = {name: getattr(args, name, None) for name in RECORDED}
        return RunMetrics(
            path=metrics_path(args.meap_metrics, save=args.save),
            shape=RunShape(
                train_steps=steps,
                tokens_per_step=args.global_batch_size * args.seq_length,
                flops_of_step=partial(flops_of_step, args),
                peak_flops=peak * 1e12 * args.world_size if peak else None,
                log_interval=args.log_interval,
                evaluations_at_end=("validation",) * (2 if in_loop else 1) + ("test",) * bool(tests),
            ),
            settings=recorded | {"device": device, "peak_tflops_per_device": peak},
            start_step=args.iteration,
            inner=get_tensorboard_writer(),
            screen=screen,
        )

    return Reporter(open_metrics)


def metrics_path(given: str | None, *, save: str | None) -> Path | None:
    """Return where metrics.jsonl is written; None: nowhere."""
    path = given or (Path(save) / "metrics.jsonl" if save else None)
    return Path(path) if path else None


def has_test_set(split: str | None) -> bool:
    """Tell whether a split such as "98,1,1" has a share of tests."""
    shares = [float(share) for share in (split or "").split(",") if share]
    return len(shares) == 3 and shares[2] > 0


def peak_of_device(device: str) -> float | None:
    """Return the peak of one device in TFLOP/s: by GPU name, or measured on a CPU."""
    if device == "cpu":
        return measured_cpu_tflops()
    import torch

    return gpu_peak_tflops(torch.cuda.get_device_name())
