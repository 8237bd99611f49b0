"""Indexed dataset to sample: Megatron's GPT dataset with masked inputs. README.md draws the samples.

Import from the modules: `mask_stage` needs NumPy only, `gpt`, `sidecar_tokenizer` and `provider` import torch and
Megatron-Core.
"""
