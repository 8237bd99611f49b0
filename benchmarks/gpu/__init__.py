"""First light on a GPU: what proves and measures this project on one card, in at most nine minutes.

    python -m benchmarks.gpu --out build/gpu                        everything, most valuable first
    python -m benchmarks.gpu --out build/gpu --only parity packed   these checks
    python -m benchmarks.gpu --device cpu --quick                   every check in tiny form, for tests
    python -m benchmarks.gpu --out build/gpu --page                 docs/benchmarks/gpu.md from results.json

`catalogue` lists the checks, `schedule` runs each as a process of its own with a time limit, `results` keeps on disk what is
known at any moment, `page` makes the tables. docs/benchmarks/gpu.md says how to use it with a card in hand.
"""
