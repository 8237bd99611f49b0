"""Any Hugging Face or SentencePiece tokenizer, with `[MASK]`. Without torch and Megatron."""
