"""What a process and its descendants use, read from /proc: CPU seconds, resident memory, descriptors, threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """One process at one moment. CPU in seconds since it started, memory in bytes."""

    pid: int
    parent: int
    cpu_s: float
    rss_bytes: int
    threads: int
    descriptors: int


def usage(pid: int) -> Usage | None:
    """What `pid` uses now; None when it is gone."""
    try:
        # The command name may hold spaces and brackets; the fields of interest follow its last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if fields[0] == "Z":
        return None
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    return Usage(pid, int(fields[1]), cpu, int(fields[21]) * _PAGE, int(fields[17]), descriptors)


def tree(root: int) -> list[Usage]:
    """`root` and all its living descendants, `root` first."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    everyone = [process for pid in pids if (process := usage(pid)) is not None]
    children: dict[int, list[Usage]] = {}
    for process in everyone:
        children.setdefault(process.parent, []).append(process)
    family = [process for process in everyone if process.pid == root]
    for process in family:
        family.extend(children.get(process.pid, []))
    return family


def cpu_seconds(root: int) -> float:
    """User and system seconds that the tree of `root` has used; processes that have ended are not counted."""
    return sum(process.cpu_s for process in tree(root))
