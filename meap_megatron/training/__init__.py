"""From a sample to a step of Megatron's own trainer, on CUDA or on a CPU.

Nothing here is a training loop, an optimizer or a checkpoint format: those are Megatron's. The modules, in the order
in which a run meets them: `pretrain` (the entry point), `platform` (which device, what is missing), `patches` (what
Megatron hard-codes), `index_cache`, `data`, `model`, `batch`, `step`, `metrics`.
"""
