"""Hugging Face <-> Megatron: tensors in, tensors out, one at a time, and no model in between.

    HF folder (config.json, *.safetensors)  <->  ModelSpec + tensors  <->  Megatron `torch_dist` checkpoint

`families` says which models are known and how their fields and tensors are called, `tensors` holds the pure functions on
tensors, `hf_files` and `megatron_files` read and write the two formats piece by piece, `importing` and `exporting` join
them, `mask_token` adds `[MASK]`, `verifying` compares the logits of both sides. torch is imported, Megatron never.
"""
