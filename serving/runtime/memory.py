"""Memory that large requests took and the allocator keeps, given back to the system.

glibc raises its own thresholds with each large block that is freed, and then keeps up to tens of megabytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _find_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None  # another C library, which has no such habit
    return found


_malloc_trim = _find_trim()


def give_back() -> None:
    """Returns free pages to the system. Takes milliseconds, so it is called on a thread."""
    if _malloc_trim is not None:
        _malloc_trim(0)
