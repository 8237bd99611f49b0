"""The functions that the task files of this folder name; the harness imports this file by its path."""

from meap_megatron.evaluation.retrieval import documents, kv, mdqa, mrs, needle

kv_build, kv_results = kv.build, kv.process_results
mdqa_build, mdqa_results = mdqa.build, mdqa.process_results
mrs_build, mrs_results, mrs_mean = mrs.build, mrs.process_results, mrs.mean_over_lengths
needle_build, needle_results = needle.build, needle.process_results
total = documents.total
