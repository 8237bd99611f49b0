"""`meap plan`: recipe and number of GPUs -> layouts, with memory and time by arithmetic, without torch and Megatron.

`model` and `job` say what is trained, `layout` how it is spread, `memory` and `step` what that costs, `search` what
is best.
"""
