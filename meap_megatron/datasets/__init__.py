"""Indexed dataset to sample: Megatron's GPT dataset with masked inputs. README.md draws the samples.

Import from the modules: `stage` needs NumPy only, `gpt`, `tokenizer` and `provider` import torch and Megatron-Core.
"""
