"""What a running server tells other programs: only while it runs, only to its own user, and never half of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from serving.errors import ConfigurationError
from serving.processes import presence
from serving.processes.presence import FILE, Presence
from tests.support.server import wait_until

MINE = Presence(
    pid=os.getpid(),
    url="http://127.0.0.1:8080",
    region="us-east-1",
    account_id="123456789012",
    secret_access_key="s3cret",
)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    presence.write(tmp_path / "new" / "state", MINE)
    found = presence.read(tmp_path / "new" / "state")
    assert found is not None
    assert found.started
    assert msgspec.structs.replace(found, started="") == MINE
    assert [path.name for path in (tmp_path / "new" / "state").iterdir()] == [FILE]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_user_may_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        presence.write(tmp_path, MINE)
    finally:
        os.umask(before)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_server_that_is_gone_is_none(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    presence.write(tmp_path, msgspec.structs.replace(MINE, pid=other.pid))
    assert presence.read(tmp_path) is not None
    other.kill()
    wait_until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE, 5, "its end")
    # Its parent has not asked for its status yet.
    assert presence.read(tmp_path) is None
    other.wait()
    assert presence.read(tmp_path) is None


def test_another_process_of_the_same_number_is_none(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    presence.write(tmp_path, MINE)
    mine = presence.read(tmp_path)
    assert mine is not None
    (tmp_path / FILE).write_bytes(msgspec.json.encode(msgspec.structs.replace(mine, pid=other.pid)))
    assert presence.read(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "url": 1}', "\x00" * 100, '{"pid": ' + "9" * 4000 + "}"]
)
def test_a_file_that_is_not_whole_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert presence.read(tmp_path) is None
    presence.remove(tmp_path)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**63 - 1])
def test_a_number_that_no_process_has_is_none(tmp_path: Path, pid: int) -> None:
    presence.write(tmp_path, msgspec.structs.replace(MINE, pid=pid))
    assert presence.read(tmp_path) is None


def test_no_directory_is_none(tmp_path: Path) -> None:
    assert presence.read(tmp_path / "none") is None
    presence.remove(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert presence.read(tmp_path / "file") is None


def test_it_is_removed_by_the_process_that_it_tells_of_alone(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    presence.write(tmp_path, msgspec.structs.replace(MINE, pid=other.pid))
    presence.remove(tmp_path)
    assert presence.read(tmp_path) is not None
    presence.write(tmp_path, MINE)
    presence.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigurationError, match=f"{tmp_path / FILE} cannot be read: Is a directory"):
        presence.read(tmp_path)
    with pytest.raises(ConfigurationError, match=f"{tmp_path / FILE} cannot be written: "):
        presence.write(tmp_path, MINE)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    presence.remove(tmp_path)


def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    presence.write(tmp_path, MINE)
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            presence.write(tmp_path, msgspec.structs.replace(MINE, url=f"http://127.0.0.1:{number}" + "0" * number))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert presence.read(tmp_path) is not None
    writer.join()
