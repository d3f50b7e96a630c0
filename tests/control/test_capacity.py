"""Whether a deployment fits: budgets, what loads at the same time, and what the system says is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.control.capacity import BASE_BYTES, Memory, TooLarge, estimate, system_free

GIB = 1024**3


def test_estimates_grow_with_the_artifact_and_the_workers() -> None:
    assert estimate("onnx", 0, 1) == BASE_BYTES
    assert estimate("onnx", 100, 3) == 3 * (BASE_BYTES + 200)
    assert estimate("xgboost", 100, 1) == BASE_BYTES + 400
    assert estimate("whatever", 100, 1) == BASE_BYTES + 400


def test_a_budget_is_shared_by_all_endpoints() -> None:
    memory = Memory(100)
    memory.reserve("a", 60)
    with pytest.raises(TooLarge, match="needs about 50 bytes of memory, and 40 bytes of model_memory_bytes are free"):
        memory.reserve("b", 50)
    memory.settle("a", loaded=True)
    assert memory.left() == 40
    memory.reserve("b", 40)
    memory.settle("b", loaded=False)
    assert memory.left() == 40
    memory.drop("a")
    memory.drop("a")
    assert memory.left() == 100


def test_an_update_needs_old_and_new_at_once() -> None:
    memory = Memory(100)
    memory.reserve("a", 60)
    memory.settle("a", loaded=True)
    with pytest.raises(
        TooLarge, match="about 60 bytes of memory, beside the 60 bytes of what it serves now, and 40 bytes"
    ):
        memory.reserve("a", 60)
    memory.reserve("a", 40)
    assert memory.left() == 0
    memory.settle("a", loaded=True)
    assert memory.left() == 60


def test_without_a_budget_the_system_is_asked_and_what_loads_now_counts() -> None:
    free = 100
    memory = Memory(None, lambda: free)
    memory.reserve("a", 60)
    assert memory.left() == 40
    with pytest.raises(TooLarge, match=r"needs about 50 bytes of memory, and 40 bytes on this machine are free"):
        memory.reserve("b", 50)
    free = 40
    memory.settle("a", loaded=True)
    # The system knows by now.
    assert memory.left() == 40


def test_where_nothing_can_be_told_nothing_is_refused() -> None:
    memory = Memory(None, lambda: None)
    memory.reserve("a", 1 << 60)
    assert memory.left() is None


def test_what_is_over_is_not_told_as_less_than_nothing() -> None:
    memory = Memory(None, lambda: -5)
    with pytest.raises(TooLarge, match=r"and 0 bytes on this machine are free"):
        memory.reserve("a", 1)


def test_sizes_that_people_read() -> None:
    with pytest.raises(
        TooLarge, match=r"about 3221225472 bytes \(3072 MiB\) of memory, and 1048576 bytes \(1 MiB\) of"
    ):
        Memory(1024 * 1024).reserve("a", 3 * GIB)


def system(tmp_path: Path, membership: str, files: dict[str, str]) -> int | None:
    """What is free by these files; 8 GiB are available on the machine."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16777216 kB\nMemFree:         1 kB\nMemAvailable:    8388608 kB\n")
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return system_free(meminfo, tmp_path / "cgroup", tmp_path / "membership")


def test_a_machine_without_limits(tmp_path: Path) -> None:
    assert system(tmp_path, "0::/\n", {}) == 8 * GIB


def test_version_2_with_a_limit_further_up(tmp_path: Path) -> None:
    files = {
        "a/b/memory.max": "max\n",
        "a/b/memory.current": "100\n",
        "a/memory.max": f"{4 * GIB}\n",
        "a/memory.current": f"{3 * GIB}\n",
        "a/memory.stat": f"anon 5\ninactive_file {GIB}\n",
    }
    assert system(tmp_path, "0::/a/b\n", files) == 2 * GIB


def test_version_1(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/a/memory.usage_in_bytes": f"{GIB}\n",
        "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 1024\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": f"{64 * GIB}\n",
    }
    assert system(tmp_path, "4:cpu,memory:/a\n0::/\n", files) == GIB + 1024


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    files = {"memory.max": f"{GIB}\n", "memory.current": "0\n"}
    assert system(tmp_path, "0::/docker/0123456789ab\n", files) == GIB


def test_files_that_say_nothing(tmp_path: Path) -> None:
    files = {"memory.max": "lots\n", "memory.current": "\n"}
    assert system(tmp_path, "nonsense\n0::/\n", files) == 8 * GIB
    assert system_free(tmp_path / "absent", tmp_path / "absent", tmp_path / "absent") is None


def test_this_machine() -> None:
    free = system_free()
    assert free is not None
    assert free > 0
