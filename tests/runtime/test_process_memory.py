"""What a process takes of memory."""

from __future__ import annotations

import mmap

from serving.runtime.process_memory import resident

MEBIBYTE = 1024 * 1024


def test_what_is_written_to_is_resident_and_what_was_given_back_is_not() -> None:
    with mmap.mmap(-1, 64 * MEBIBYTE) as pages:
        before = resident()
        pages.write(b"1" * (64 * MEBIBYTE))
        held = resident() - before
    given_back = before + held - resident()
    assert held >= 60 * MEBIBYTE
    assert given_back >= 60 * MEBIBYTE
