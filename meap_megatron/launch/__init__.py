"""From a recipe to a checked command line and started ranks. Nothing here imports torch or Megatron at import time."""
