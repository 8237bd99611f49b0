"""What `meap doctor` looks at: packages, machine, cluster, shared folder; every check returns findings and raises nothing.

Imports no package that could be broken: those are imported by `child`, in a process of its own with a time limit.
"""
