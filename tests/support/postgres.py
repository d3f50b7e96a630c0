"""A PostgreSQL for the tests: a private cluster on a Unix socket, with a new database for each test that asks for one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.server import wait_until

_START_S = 30.0
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "60",
    "fsync": "off",
    "full_page_writes": "off",
    "log_min_messages": "fatal",
}


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, which Debian keeps off the PATH; None where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


class Cluster:
    """A cluster in `folder`, owned by the user `postgres` where we are root, which PostgreSQL refuses to run as."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        # A language's order, as most databases have it: what sorts by it by mistake does not sort as SQLite.
        order = ("--locale=C", "--locale-provider=icu", "--icu-locale=en-US")
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", *order, "data")

    def start(self) -> None:
        """Starts the server as our child, which ends even when we are killed, and waits until it answers."""
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = self._command("postgres", "-D", "data", "-k", str(self._folder), *settings)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        try:
            wait_until(self._answers, _START_S, f"an answer of PostgreSQL ({self._folder / 'log'})")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server as a crash would; what was committed is there after the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_START_S)
            self._process = None

    @property
    def pid(self) -> int:
        """The process of the running server."""
        assert self._process is not None
        return self._process.pid

    def url(self, name: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres@/{name}?host={self._folder}"

    def execute(self, statement: str) -> None:
        """Runs a statement that is no part of a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create(self) -> str:
        """The name of a new, empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        return name

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, *words: str) -> None:
        ended = subprocess.run(self._command(*words), cwd=self._folder, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr

    def _command(self, program: str, *arguments: str) -> list[str]:
        user = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
        return ["setpriv", *user, "--pdeathsig=QUIT", str(self._programs / program), *arguments]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """One cluster for all tests of a session."""
    found = programs()
    if found is None:
        reason = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Not pytest's folder: the path of a socket has at most 107 bytes, and `postgres` may not enter root's.
    folder = Path(tempfile.mkdtemp(prefix="serving-postgres-"))
    try:
        cluster = Cluster(found, folder)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def database_url(postgres: Cluster) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test's own, empty as the operator creates it (`--database`)."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
