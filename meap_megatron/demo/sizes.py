"""What the demo trains: sizes of its corpus, model and run, and the recipes of its two arms as text.

The two recipes are complete: they name nothing outside the demo's folder, and `meap train` runs them again or continues
them. The MEAP arm extends the NTP arm and changes the mask ratio only, so that data order and initial weights
are the same.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from meap_megatron.errors import UserError
from meap_megatron.starter.written import LAYERS

ARMS = ("ntp", "meap")
MASK_RATIO = 0.15


@dataclass(frozen=True, kw_only=True)
class DemoSizes:
    """Sizes of one demo."""

    corpus_bytes: int
    """Of text, at most."""
    vocab_size: int
    """Pieces, BOS, EOS and [MASK] among them."""
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    seq_length: int
    """Positions, and tokens of the haystack: a needle with its question and answer takes up to 260."""
    split: str
    """Train, valid and test shares of the documents, as Megatron takes them."""
    batch_size: int
    """Sequences per step."""
    train_iters: int
    learning_rate: float
    eval_iters: int
    """Batches per validation."""
    num_evaluations: int
    """Validations during a run, the one at its end among them."""
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.train_iters < 1:
            raise UserError(f"--steps is {self.train_iters}; it must be at least 1")

    @property
    def eval_interval(self) -> int:
        """Steps between validations, no divisor of `train_iters`: Megatron evaluates at the end of a run anyway."""
        interval = max(2, self.train_iters // self.num_evaluations + 1)
        while self.train_iters % interval == 0:
            interval += 1
        return interval

    @property
    def log_interval(self) -> int:
        """Steps between progress lines: about 10 lines in a run."""
        rough = max(1, self.train_iters // 10)
        return rough if rough < 10 else rough // 10 * 10

    @property
    def tokens_per_step(self) -> int:
        """Trained positions of one step."""
        return self.batch_size * self.seq_length

    def with_steps(self, steps: int | None) -> "DemoSizes":
        """Return the plan with another number of steps."""
        return self if steps is None else dataclasses.replace(self, train_iters=steps)


FULL = DemoSizes(
    corpus_bytes=10_000_000,
    vocab_size=4096,
    num_layers=4,
    hidden_size=128,
    ffn_hidden_size=344,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=512,
    split="98,2,0",
    batch_size=2,
    train_iters=450,
    learning_rate=4.0e-3,
    eval_iters=32,
    num_evaluations=5,
)
QUICK = DemoSizes(
    corpus_bytes=600_000,
    vocab_size=512,
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=96,
    num_attention_heads=2,
    num_query_groups=1,
    seq_length=512,
    split="80,20,0",
    batch_size=1,
    train_iters=20,
    learning_rate=3.0e-3,
    eval_iters=2,
    num_evaluations=2,
)


def ntp_recipe(plan: DemoSizes, *, prefix: Path, save: Path, peak_tflops: float) -> str:
    """Return the recipe of the NTP arm.

    Args:
        plan: sizes.
        prefix: of the indexed dataset.
        save: folder of the run.
        peak_tflops: measured fp32 rate of one thread in TFLOP/s, against which MFU is stated.
    """
    return f"""description: demo, next-token prediction (made by `meap demo`)
model:
  num_layers: {plan.num_layers}
  hidden_size: {plan.hidden_size}
  ffn_hidden_size: {plan.ffn_hidden_size}
  num_attention_heads: {plan.num_attention_heads}
  num_query_groups: {plan.num_query_groups}
{LAYERS}data:
  data_path: [{json.dumps(str(prefix))}]
  split: {plan.split}
  seq_length: {plan.seq_length}
  max_position_embeddings: {plan.seq_length}
  num_workers: 0
optimizer:
  train_iters: {plan.train_iters}
  global_batch_size: {plan.batch_size}
  micro_batch_size: {plan.batch_size}
  lr: {plan.learning_rate}
  min_lr: {plan.learning_rate / 10}
  lr_decay_style: cosine
  lr_warmup_fraction: 0.1
  weight_decay: 0.05
  adam_beta2: 0.95
  clip_grad: 1.0
  seed: {plan.seed}
run:
  device: cpu
  save: {json.dumps(str(save))}
  save_interval: {plan.train_iters}
  eval_interval: {plan.eval_interval}
  eval_iters: {plan.eval_iters}
  log_interval: {plan.log_interval}
  meap_peak_tflops: {peak_tflops:.6f}
objective:
  meap_mask_ratio: 0.0
"""


def meap_recipe(*, save: Path) -> str:
    """Return the recipe of the MEAP arm: that of the NTP arm in the same folder, with masked inputs."""
    return f"""description: demo, MEAP with {MASK_RATIO:.0%} of the input tokens masked (made by `meap demo`)
extends: ntp.yaml
run:
  save: {json.dumps(str(save))}
objective:
  meap_mask_ratio: {MASK_RATIO}
"""
