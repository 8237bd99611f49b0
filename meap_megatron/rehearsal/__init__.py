"""A job of any size rehearsed on one CPU: what would stop it, and what each of its ranks would hold, read and write.

In the order in which a rehearsal meets them: `settings` and `job` (a recipe and a number of processes), `layout` and
`inputs` (mistakes that show without Megatron), `isolate` (each rank in a process of its own), `stand_in` (what takes the
place of the GPU and of the other ranks), `shapes` with `model`, `reading` and `saving` (one rank at its true sizes),
`steps` (one rank, small widths, real iterations), `everyone` (the data of all ranks), `report`.
"""
