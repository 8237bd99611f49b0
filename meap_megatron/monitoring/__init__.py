"""What a run is doing, read from the outside: status, alerts, comparison. Nothing here imports torch or Megatron."""
