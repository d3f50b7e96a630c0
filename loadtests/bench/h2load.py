"""Closed-loop gRPC load by h2load on the load core: one message again and again, one call at a time on each connection.

h2load sees HTTP's status and not gRPC's, so the caller has a client of its own look at answers before, meanwhile and after.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Self

import numpy as np

from loadtests.bench.load import Load, LoadFailed
from loadtests.bench.stats import percentile

_COUNTS: Final = re.compile(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_STATUSES: Final = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")


def require_h2load() -> str:
    """The path of h2load; raises `LoadFailed` with the way to install it."""
    found = shutil.which("h2load")
    if found is None:
        raise LoadFailed("h2load is not installed: `apt-get install nghttp2-client` (or your system's package)")
    return found


def framed(message: bytes) -> bytes:
    """An uncompressed message as it goes over HTTP/2: a flag byte and its length in front ("gRPC over HTTP2")."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def parse(output: str, seconds: float, microseconds: list[int]) -> Load:
    """What h2load printed, with the latencies of its log. Raises `LoadFailed` with its own words where that is no report."""
    counts, statuses = _COUNTS.search(output), _STATUSES.search(output)
    if counts is None or statuses is None or not microseconds:
        raise LoadFailed(f"h2load did no work: {output.strip()[-500:]}")
    succeeded, failed, errored, timeout = (int(count) for count in counts.groups()[1:])
    # A timed run ends with a call on each connection still open; those are in none of these counts.
    wrong = failed + errored + timeout + sum(int(count) for count in statuses.groups()[1:])
    p50, p99 = (percentile(microseconds, share) / 1e3 for share in (0.5, 0.99))
    return Load(succeeded, seconds, p50, p99, wrong)


class H2load:
    """One h2load process, started at once; `result()` waits for its end, leaving the block makes sure of it."""

    def __init__(self, port: int, path: str, message: bytes, connections: int, seconds: float, core: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        body, self._log = Path(self._folder.name) / "body", Path(self._folder.name) / "log"
        body.write_bytes(framed(message))
        self._seconds = max(1, round(seconds))
        command = ["taskset", "-c", str(core), require_h2load(), "-t", "1", "-c", str(connections), "-m", "1"]
        command += ["-D", f"{self._seconds}s", "-d", str(body), "--log-file", str(self._log)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{path}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def result(self) -> Load:
        """The measured run. Raises `LoadFailed` when h2load fails or hangs."""
        limit_s = self._seconds + 30
        try:
            output, _ = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"h2load did not end within {limit_s} s") from None
        return parse(output, self._seconds, _latencies(self._log))


def _latencies(log: Path) -> list[int]:
    """The third column of each line: microseconds from the start of a call to its end."""
    if not log.exists() or not log.stat().st_size:
        return []
    column: list[int] = np.loadtxt(log, np.int64, usecols=2, ndmin=1).tolist()
    return column
