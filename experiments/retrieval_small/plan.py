"""The registered numbers of the experiment: everything that could be tuned after a look at results stands here.

docs/experiments/retrieval_small_2.md and past_plateau.md say why; tests compare.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.runs import ROOT

PAGES = ROOT / "docs" / "experiments"
PROTOCOL = PAGES / "retrieval_small_2.md"
RECIPE = ROOT / "examples" / "recipes" / "experiments" / "retrieval_small_ntp.yaml"

NTP_RATIO, MEAP_RATIO = 0.0, 0.15
ALPHA = 0.05
SMALLEST_DIFFERENCE = 0.02
"""In area under the curve; a difference below it would be of no interest."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Test rows of another shape than those of training, scored at the end of a run."""

    name: str
    length: int
    facts: int
    distractors: int
    """Facts that nothing asks for."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of one experiment."""

    label: str
    protocol: Path = PROTOCOL
    record: Path = PAGES / "retrieval_small_2"
    """What is kept of the registered experiment: the scores of every arm, versions, tables, figures."""
    primary: str = "area"
    """The measure that the test is made in, a key of `analysis.measures`."""
    streams: tuple[str, ...] = ("trial", "main")
    """Sets of test rows, the last for the comparison, which is not read on rows on which the setting was tried."""
    probes: tuple[Probe, ...] = ()
    facts: tuple[int, ...]
    """Numbers of facts per row, equally often; the largest is the stratum of the primary metric."""
    rounds: int
    """How often a row asks for each of its facts; the first round is scored."""
    trial_seeds: tuple[int, ...]
    """NTP alone, outside of the comparison."""
    seeds: dict[float, tuple[int, ...]]
    """Mask ratio -> seeds of its arms."""
    overrides: tuple[str, ...]
    """Words for `meap train` on top of the recipe."""
    train_iters: int
    seq_length: int
    batch_size: int
    looks: int
    """Checkpoints per run, evenly spaced; each is scored."""
    corpus_bytes: int
    vocab_size: int
    num_keys: int
    num_values: int
    test_rows: int
    """Of the primary stratum; half as many of each other one."""
    formed: float
    """Trial: accuracy at the end from which on retrieval has formed."""
    too_easy: float
    """Trial: accuracy at the first look from which on the task shows nothing."""

    @property
    def interval(self) -> int:
        """Steps between two checkpoints."""
        return self.train_iters // self.looks

    @property
    def num_runs(self) -> int:
        """Arms of the comparison."""
        return sum(map(len, self.seeds.values()))


REGISTERED = Plan(
    label="registered",
    facts=(2, 4),
    rounds=3,
    trial_seeds=(901, 902),
    seeds={0.0: tuple(range(1, 13)), 0.15: tuple(range(1, 13)), 0.05: tuple(range(1, 7)), 0.30: tuple(range(1, 7))},
    overrides=(),
    train_iters=1500,
    seq_length=64,
    batch_size=12,
    looks=20,
    corpus_bytes=10_000_000,
    vocab_size=2048,
    num_keys=16,
    num_values=16,
    test_rows=256,
    formed=0.50,
    too_easy=0.90,
)

PAST_PLATEAU = replace(
    REGISTERED,
    label="past the plateau",
    protocol=PAGES / "past_plateau.md",
    record=PAGES / "past_plateau",
    primary="final",
    streams=("plateau",),
    probes=(
        Probe(name="long", length=192, facts=4, distractors=0),
        Probe(name="distractors", length=192, facts=4, distractors=8),
    ),
    trial_seeds=(),
    seeds={0.0: tuple(range(21, 29)), 0.15: tuple(range(21, 29))},
    train_iters=6000,
)

SMOKE = Plan(
    label="smoke",
    facts=(1, 2),
    rounds=2,
    trial_seeds=(901,),
    seeds={0.0: (1,), 0.15: (1,)},
    overrides=(
        "num_layers=2",
        "hidden_size=32",
        "ffn_hidden_size=96",
        "num_attention_heads=2",
        "num_query_groups=2",
        "kv_channels=16",
        "seq_length=64",
        "max_position_embeddings=64",
        "global_batch_size=4",
        "micro_batch_size=4",
        "eval_iters=1",
    ),
    train_iters=40,
    seq_length=64,
    batch_size=4,
    looks=4,
    corpus_bytes=600_000,
    vocab_size=512,
    num_keys=8,
    num_values=8,
    test_rows=8,
    formed=0.0,
    too_easy=2.0,
    probes=(Probe(name="distractors", length=96, facts=2, distractors=4),),
)
"""Shows that the chain works; its numbers mean nothing and every file it writes says so."""
