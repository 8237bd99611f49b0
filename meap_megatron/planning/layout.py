"""How a model is spread over GPUs."""

from dataclasses import dataclass

NONE, SELECTIVE, FULL = "none", "selective", "full"
RECOMPUTE = (NONE, SELECTIVE, FULL)
"""What is computed again in the backward pass: nothing, the feed-forward part of each layer, each layer."""


@dataclass(frozen=True, kw_only=True)
class PlannedLayout:
    """Parallel sizes and what goes with them; all defaults are those of one GPU."""

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    data: int = 1
    virtual: int = 1
    """Model chunks per pipeline stage; above 1 the schedule is interleaved."""
    micro_batch: int = 1
    """Sequences."""
    num_micro_batches: int = 1
    """Per step on one data-parallel rank."""
    sequence_parallel: bool = False
    distributed_optimizer: bool = True
    recompute: str = NONE
    first_layers: int | None = None
    """Layers of the first stage, where stages are uneven."""
    last_layers: int | None = None
    """Layers of the last stage, where stages are uneven."""
    tensor_overlap: bool = False
    """Tensor-parallel communication is split up and hidden under matrix products (Megatron's `tp_comm_overlap`)."""
    data_overlap: bool = True
    """Gradients are reduced during the backward pass, weights gathered during the forward pass."""

    @property
    def gpus(self) -> int:
        """Ranks of the job."""
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def replicas(self) -> int:
        """Ranks that hold the same weights; the distributed optimizer splits its state over them."""
        return self.data * self.context

    def stage_layers(self, num_layers: int, stage: int) -> int:
        """Return how many layers a pipeline stage holds.

        Given 28 layers on 8 stages, first_layers 2 and last_layers 2
        then  stage 0 and stage 7 hold 2, the others (28 - 4) / 6 = 4.
        """
        if stage == 0 and self.first_layers is not None:
            return self.first_layers
        if stage == self.pipeline - 1 and self.last_layers is not None:
            return self.last_layers
        others = self.pipeline - (self.first_layers is not None) - (self.last_layers is not None)
        return (num_layers - (self.first_layers or 0) - (self.last_layers or 0)) // others

    def chunks_in_flight(self, stage: int) -> int:
        """Return how many chunks of a stage wait for their backward pass at the worst moment.

        One forward, one backward: the stages behind it, and itself (Narayanan et al. 2021, section 2.2.1).
        Interleaved: the warm-up has 2 (p - 1 - stage) + (v - 1) p chunks, and one is being computed, which for the
        first stage is L (1 + (p - 1) / (p v)) layers (section 2.2.2; Korthikanti et al. 2022, section 4.2.3).
        """
        p, v, m = self.pipeline, self.virtual, self.num_micro_batches
        if v == 1:
            return min(m, p - stage)
        return min(m * v, 2 * (p - 1 - stage) + (v - 1) * p + 1)

    def settings(self) -> dict[str, int | bool | str | list[str]]:
        """Return the recipe's settings for this layout, by Megatron's names."""
        given: dict[str, int | bool | str | list[str] | None] = {
            "tensor_model_parallel_size": self.tensor,
            "pipeline_model_parallel_size": self.pipeline,
            "context_parallel_size": self.context,
            "sequence_parallel": self.sequence_parallel,
            "micro_batch_size": self.micro_batch,
            "use_distributed_optimizer": self.distributed_optimizer,
            "num_virtual_stages_per_pipeline_rank": self.virtual if self.virtual > 1 else None,
            "decoder_first_pipeline_num_layers": self.first_layers,
            "decoder_last_pipeline_num_layers": self.last_layers,
            "recompute_granularity": None if self.recompute == NONE else self.recompute,
            "recompute_modules": ["mlp"] if self.recompute == SELECTIVE else None,
            "recompute_method": "uniform" if self.recompute == FULL else None,
            "recompute_num_layers": 1 if self.recompute == FULL else None,
        }
        if not self.distributed_optimizer:
            given["overlap_param_gather"] = False
        return {name: value for name, value in given.items() if value is not None}
