"""The functions that the task files of this folder name; the harness imports this file by its path."""

from meap_megatron.evaluation.retrieval import babilong, documents, kv, mdqa, mrs, needle, nolima, ruler

babilong_build, babilong_results = babilong.build, babilong.process_results
kv_build, kv_build_filled, kv_results = kv.build, kv.build_filled, kv.process_results
mdqa_build, mdqa_results = mdqa.build, mdqa.process_results
mrs_build, mrs_results, mrs_mean = mrs.build, mrs.process_results, mrs.mean_over_lengths
needle_build, needle_results = needle.build, needle.process_results
nolima_build, nolima_results = nolima.build, nolima.process_results
ruler_build, ruler_results = ruler.build, ruler.process_results
total = documents.total
