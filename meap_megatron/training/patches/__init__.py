"""Everything of Megatron and torch that is replaced at run time; `redirect` is the list."""
