"""MEAP (mask-enhanced autoregressive prediction, arXiv 2502.07490) as a plugin to Megatron-Core.

The folders follow the data: `corpus` (raw text to indexed dataset), `masking` (which positions), `datasets`
(indexed dataset to sample), `training` (sample to Megatron step), `cli` (one file per verb).
Importing this package imports neither torch nor Megatron.
"""

from meap_megatron.version import __version__

__all__ = ["__version__"]
