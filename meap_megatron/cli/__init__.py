"""One file per verb; `main` finds it. Importing this package imports neither torch nor Megatron."""
