"""A setting of the C library that makes a step on a CPU cheaper and changes no result.

glibc gives every block above 32 MB, and the end of its heap, back to the system as soon as it is free, and the next step
gets it back a page at a time, each cleared by the kernel: the logits of every step are such a block.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def keep_freed_memory() -> bool:
    """Let malloc keep blocks of up to 1 GB for the next step; return whether the C library takes the settings."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
