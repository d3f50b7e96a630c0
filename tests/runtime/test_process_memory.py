"""What a process takes of memory."""

from __future__ import annotations

import numpy as np

from serving.runtime.process_memory import resident

MEBIBYTE = 1024 * 1024


def test_what_is_written_to_is_resident() -> None:
    before = resident()
    held = np.ones(64 * MEBIBYTE, np.uint8)
    assert 60 * MEBIBYTE < resident() - before < 80 * MEBIBYTE
    del held
    assert resident() - before < 20 * MEBIBYTE
