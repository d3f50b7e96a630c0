"""The index of copies: what it is told it knows after a restart, and after a crash too."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.control import copy_index
from serving.control.copy_index import CopyIndex, Facts


def facts(place: str) -> Facts:
    return Facts(place, f"s3://b/{place}", '"etag"', 10, 5, "model.onnx")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(file: Path) -> CopyIndex:
    found = CopyIndex(file)
    found.begin("boot", [])
    return found


def test_what_is_made_is_known_and_what_is_gone_is_not(index: CopyIndex, file: Path) -> None:
    for place in "abc":
        index.made(facts(place))
    index.gone("b")
    index.gone("never there")
    index.close()
    assert CopyIndex(file).read("boot") == [facts("a"), facts("c")]


def test_nothing_is_known_of_another_start_of_the_machine(index: CopyIndex, file: Path) -> None:
    index.made(facts("a"))
    index.close()
    assert CopyIndex(file).read("another") == []
    assert CopyIndex(file.with_name("none")).read("boot") == []


@pytest.mark.parametrize("damage", [b"", b"\n\n", b"{}\n", b'["a"]\n', b"\xff\n", b"[1,2,3,4,5]\n", b'["b","s3'])
def test_lines_that_are_none_say_nothing(index: CopyIndex, file: Path, damage: bytes) -> None:
    index.made(facts("a"))
    index.close()
    with file.open("ab") as out:
        out.write(damage)
    assert CopyIndex(file).read("boot") == [facts("a")]
    file.write_bytes(damage)
    assert CopyIndex(file).read("boot") == []


def test_it_does_not_grow_for_ever(index: CopyIndex, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_index, "_MOST_IDLE", 10)
    index.made(facts("stays"))
    for number in range(1000):
        index.made(facts(str(number)))
        index.gone(str(number))
        assert file.stat().st_size < 2_000
    index.made(facts("later"))
    index.close()
    assert CopyIndex(file).read("boot") == [facts("stays"), facts("later")]


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes, as on a disk that fills up amid a line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_the_disk_did_not_take_whole_costs_no_other(index: CopyIndex, file: Path) -> None:
    index.made(facts("a"))
    with no_room_beyond(file.stat().st_size + 10), pytest.raises(OSError, match="No space left"):
        index.made(facts("b"))
    index.made(facts("c"))
    index.close()
    assert CopyIndex(file).read("boot") == [facts("a"), facts("c")]


def test_a_full_disk_does_not_cost_what_is_known(index: CopyIndex, file: Path) -> None:
    index.made(facts("a"))
    index.close()
    with file.open("ab") as out:
        out.write(b'["b","s3')
    again = CopyIndex(file)
    with no_room_beyond(8):
        again.begin("boot", again.read("boot"))
    again.made(facts("c"))
    again.close()
    assert CopyIndex(file).read("boot") == [facts("a"), facts("c")]
    assert [path.name for path in file.parent.iterdir()] == ["index"]
    with no_room_beyond(2), pytest.raises(OSError, match="too large"):
        CopyIndex(file).begin("another", [])
