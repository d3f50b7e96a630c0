"""Whether a deployment fits: what its model will take of memory, by an estimate, against what is left.

Estimates are the artifact's bytes times a factor for its container kind, in each worker. The factors are high: they hold
what a model takes at its peak, while it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from serving.errors import ArtifactError

FACTORS: Final = {"onnx": 2.0, "xgboost": 4.0, "lightgbm": 4.0, "sklearn": 4.0}
"""ONNX Runtime reads a graph and keeps its weights; trees are kept as a graph and in the library; skops files are
compressed."""

FACTOR: Final = 4.0
"""Of a kind that is not listed."""

BASE_BYTES: Final = 4 * 1024 * 1024
"""What the smallest model takes: a session, its threads, a queue."""

MEMINFO: Final = Path("/proc/meminfo")
CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")

_MEBIBYTE: Final = 1024 * 1024


class TooLarge(ArtifactError):
    """The model does not fit into the memory that is left."""


def estimate(kind: str, artifact_bytes: int, workers: int) -> int:
    """The bytes that a model takes in all workers."""
    return workers * (BASE_BYTES + int(artifact_bytes * FACTORS.get(kind, FACTOR)))


class Memory:
    """What the models of endpoints take and may take, in bytes by endpoint.

    `budget` is for all of them; None: what the system has free, less what models that load now are still to take. `free`
    gives that, None where it cannot be told.
    """

    def __init__(self, budget: int | None, free: Callable[[], int | None] | None = None) -> None:
        self._budget = budget
        self._free = free or system_free
        self._loaded: dict[str, int] = {}
        self._loading: dict[str, int] = {}

    def reserve(self, name: str, needed: int) -> None:
        """Sets bytes aside for a model that will load beside what serves under its name. Raises `TooLarge`.

        0 bytes always fit.
        """
        free = self.left() if needed else None
        if free is not None and needed > free:
            whose = "of model_memory_bytes" if self._budget is not None else "on this machine"
            beside = f", beside the {_shown(self._loaded[name])} of what it serves now" if name in self._loaded else ""
            raise TooLarge(
                f"the model needs about {_shown(needed)} of memory{beside}, and {_shown(max(free, 0))} {whose} are free"
            )
        self._loading[name] = needed

    def settle(self, name: str, *, loaded: bool) -> None:
        """What was set aside is loaded, in place of what served under the name before, or is given back."""
        needed = self._loading.pop(name, None)
        if loaded and needed is not None:
            self._loaded[name] = needed

    def drop(self, name: str) -> None:
        """Nothing serves under the name any more."""
        self._loaded.pop(name, None)

    def left(self) -> int | None:
        """The bytes that a further model may take."""
        loading = sum(self._loading.values())
        if self._budget is not None:
            return self._budget - loading - sum(self._loaded.values())
        free = self._free()
        return None if free is None else free - loading


def system_free(meminfo: Path = MEMINFO, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """What this process and its children may still take: of the machine, and of each control group they are in.

    Sources: proc(5) (MemAvailable), the kernel's cgroup-v1/memory and cgroup-v2 (memory.max, memory.current).
    """
    found: list[int] = []
    with suppress(OSError):
        lines = meminfo.read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used, statistics in _groups(cgroups, membership):
        # What the kernel keeps of files is given back when memory is wanted.
        cache = _statistic(statistics, ("inactive_file", "total_inactive_file"))
        found.append(limit - used + cache)
    return min(found, default=None)


def _groups(cgroups: Path, membership: Path) -> Iterable[tuple[int, int, Path]]:
    """Limit, use and statistics of each control group that limits memory, from this process's up to the root."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        if controllers == "":
            root, limit_file, used_file = cgroups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit_file, used_file = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inner = root / path.lstrip("/")
        # In a container the path is the host's, and what is mounted is the container's own group.
        for group in (inner, *inner.parents):
            limit, used = _number(group / limit_file), _number(group / used_file)
            if limit is not None and used is not None:
                yield limit, used, group / "memory.stat"
            if group == root:
                break


def _number(file: Path) -> int | None:
    """What a file holds; None for `max`, for a file that is not there, and for version 1's word for no limit."""
    try:
        value = int(file.read_text())
    except (OSError, ValueError):
        return None
    return value if value < 1 << 60 else None


def _statistic(file: Path, names: tuple[str, ...]) -> int:
    with suppress(OSError, ValueError):
        fields = dict(line.split(None, 1) for line in file.read_text().splitlines())
        return next((int(fields[name]) for name in reversed(names) if name in fields), 0)
    return 0


def _shown(count: int) -> str:
    return f"{count} bytes ({count / _MEBIBYTE:.0f} MiB)" if count >= _MEBIBYTE else f"{count} bytes"
