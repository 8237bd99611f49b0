"""Conversations to token ids and one role per token: read, render, encode, write. Imports neither torch nor Megatron."""
