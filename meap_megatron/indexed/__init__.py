"""Megatron's `.bin/.idx` pair, its sidecar, and the role of each token: what every other package reads. Without torch."""
