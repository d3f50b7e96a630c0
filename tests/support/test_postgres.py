"""The PostgreSQL of the tests gives each its own database, and leaves no process behind however a session ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import psycopg

from tests.support.postgres import Cluster
from tests.support.server import wait_until

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.postgres import Cluster, programs
cluster = Cluster(programs(), Path(sys.argv[1]))
cluster.start()
print(cluster.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_databases_are_apart(postgres: Cluster) -> None:
    one, two = postgres.create(), postgres.create()
    with psycopg.connect(postgres.url(one)) as connection:
        connection.execute("CREATE TABLE only_here (id INTEGER)")
    with psycopg.connect(postgres.url(two)) as connection:
        assert connection.execute("SELECT to_regclass('only_here')").fetchone() == (None,)
    for name in (one, two):
        postgres.execute(f"DROP DATABASE {name}")


def test_it_ends_when_the_session_is_killed(postgres: Cluster) -> None:
    folder = Path(tempfile.mkdtemp(prefix="serving-postgres-"))
    try:
        ended = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True, check=False)
        assert ended.stdout, ended.stderr
        process = int(ended.stdout)
        assert process != postgres.pid
        wait_until(lambda: not psutil.pid_exists(process), 10, "the end of PostgreSQL")
    finally:
        shutil.rmtree(folder)
