"""Raw text to an indexed dataset and back: read, encode, write, verify, merge. Imports neither torch nor Megatron."""
