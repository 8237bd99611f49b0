"""The functions that the task files of this folder name; the harness imports this file by its path."""

from meap_megatron.evaluation import kv, mdqa, needle
from meap_megatron.evaluation.documents import total

needle_build, needle_results = needle.build, needle.process_results
kv_build, kv_results = kv.build, kv.process_results
mdqa_build, mdqa_results = mdqa.build, mdqa.process_results
__all__ = ["kv_build", "kv_results", "mdqa_build", "mdqa_results", "needle_build", "needle_results", "total"]
