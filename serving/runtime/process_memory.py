"""What this process takes of memory, with and without what its allocator keeps of what was freed.

Models that came and went leave tens of megabytes in the allocator, which the next ones are put into. Whoever takes those
for the models' own believes that few of them fit, unloads more, and has yet more of it. Source: proc(5), mallinfo(3).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

_STATM: Final = Path("/proc/self/statm")


class _Info(ctypes.Structure):
    """glibc's `struct mallinfo2`; all in bytes but the counts of chunks."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def _find_mallinfo() -> Callable[[], Any] | None:
    try:
        found = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None  # another C library
    found.argtypes = ()
    found.restype = _Info
    return found


_mallinfo = _find_mallinfo()


def in_use() -> int:
    """Bytes: what is allocated, and what is mapped of files. Takes 10 to 200 us.

    Python's own small objects are not among them.
    """
    _, resident, files, *_ = (int(pages) * PAGE_BYTES for pages in _STATM.read_bytes().split())
    if _mallinfo is None:
        return resident
    info = _mallinfo()
    allocated: int = info.uordblks + info.hblkhd
    return files + allocated


def resident() -> int:
    """Bytes of this process that are in memory, with what its allocator keeps."""
    return int(_STATM.read_bytes().split()[1]) * PAGE_BYTES
