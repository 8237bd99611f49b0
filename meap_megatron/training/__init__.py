"""From a sample to a step of Megatron's own trainer, on CUDA or on a CPU.

Nothing here is a training loop, an optimizer or a checkpoint format: those are Megatron's. The modules, in the order
in which a run meets them: `platform` (which device, what is missing), `redirect` (what Megatron hard-codes),
`arguments`, `command_line`, `model`, `data`, `batch`, `step`, `metrics`, and `pretrain`, the entry point.
"""
