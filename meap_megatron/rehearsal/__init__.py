"""A job of any size rehearsed on one CPU: what would stop it, and what each of its ranks would hold, read and write.

In the order in which a rehearsal meets them: `job` (a recipe and a number of processes), `preflight` (mistakes that show
without Megatron), `in_fork` (each rank in a process of its own), `fakes` (what takes the place of the GPU and of the other
ranks), `shapes` with `rank_model`, `rank_data` and `rank_checkpoint` (one rank at its true sizes), `steps` (one rank, small
widths, real iterations), `data_coverage` (the data of all ranks), `text`.
"""
