"""The functions that the task files of this folder name; the harness imports this file by its path."""

from meap_megatron.evaluation import needle
from meap_megatron.evaluation.documents import total

needle_build, needle_results = needle.build, needle.process_results
__all__ = ["needle_build", "needle_results", "total"]
