"""What the process takes of memory: what is held counts, what the allocator keeps does not."""

from __future__ import annotations

import numpy as np

from serving.runtime.process_memory import in_use

MEBIBYTE = 1024 * 1024
SLACK = 2 * MEBIBYTE


def test_what_is_held_counts_and_what_was_freed_does_not() -> None:
    before = in_use()
    # Blocks that the allocator takes from its heap, and keeps there when they are freed.
    held = [np.ones(32 * 1024, np.uint8) for _ in range(1024)]
    assert 31 * MEBIBYTE < in_use() - before < 34 * MEBIBYTE
    last = held[-1]
    held.clear()
    assert abs(in_use() - before) < SLACK
    assert last.all()


def test_large_blocks_count() -> None:
    before = in_use()
    held = np.ones(64 * MEBIBYTE, np.uint8)
    assert abs(in_use() - before - held.nbytes) < SLACK
    del held
    assert abs(in_use() - before) < SLACK
