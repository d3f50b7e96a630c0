"""A program that runs on a leash: the kernel kills it when the process that started it ends, however that ends.

Run as `python -m serving.processes.leashed PARENT_PID PROGRAM ARGUMENTS...`, or as a file, which needs no environment:
it becomes PROGRAM, with standard streams and environment as they are and no other descriptor. The leash is the thread
that starts it: it must be one that lasts. It does not hold a program that changes its user. Source: prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
FAILED: Final = 127
"""The exit code where the program did not come to run, as a shell's."""


def main() -> None:
    """The program that becomes another."""
    parent, *program = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"no signal can be had for the end of process {parent}: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):
        # It ended before it could be told to the kernel.
        sys.exit(FAILED)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    try:
        os.execv(program[0], program)  # noqa: S606
    except OSError as error:
        print(f"{program[0]} cannot be run: {error.strerror}", file=sys.stderr)
        sys.exit(FAILED)


def command(program: Path, *arguments: str) -> list[str]:
    """What to start, from the thread that calls, so that the program ends with this process."""
    return [sys.executable, "-IS", __file__, str(os.getpid()), str(program), *arguments]


if __name__ == "__main__":
    main()
