"""Memory that a step has freed stays with the process, for the next step to take."""

from __future__ import annotations

import ctypes
import sys

TRIM, MMAP = -1, -3
"""Parameters of ``mallopt`` (malloc.h of the GNU C library): bytes of free memory at the end of the heap above which
they go back to the system, and bytes of a piece above which it is a mapping of its own."""
KEPT, LARGEST = 256 << 20, 32 << 20
"""What is set for them. Every version of the library takes 32 MiB as a size of a piece."""


def keep_freed_memory() -> bool:
    """Have this process keep up to 256 MiB that it has freed; whether the C library could be asked.

    By default a step's tensors of a megabyte go back to the system with the step, and the next one's come as new pages
    that the kernel has to clear first: a tenth of the time of a training step on UCI-HAR. Other C libraries than the
    GNU one know no such parameters; nothing changes then.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(TRIM, KEPT) == 1, mallopt(MMAP, LARGEST) == 1])
