"""Fine-tuning: indexed conversations to rows of whole segments, each original beside its masked copy.

Import from the modules: `config`, `answer_masks`, `reference`, `packing` and `data` need NumPy only, `dataset` imports torch
and Megatron-Core. `../README.md` draws the rows.
"""
