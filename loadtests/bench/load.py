"""Closed-loop load by wrk on the load core: a checked burst that also warms up, then the measured run."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from loadtests.bench.models import TOLERANCE, Array
from loadtests.bench.protocols import Protocol, Request, WrongAnswer

_RESULT = "RESULT "

# `done` prints what wrk measured as one line of JSON, since its own text rounds to three digits.
_REPORT = """
function done(summary, latency, requests)
  local wrong, example = 0, ""
  for _, thread in ipairs(threads) do
    wrong = wrong + (thread:get("wrong") or 0)
    if thread:get("example") then example = thread:get("example") end
  end
  io.write(string.format(
    'RESULT {"requests":%d,"duration_us":%d,"p50_us":%f,"p99_us":%f,"max_us":%f,' ..
    '"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"wrong":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    summary.errors.status, summary.errors.connect, summary.errors.read, summary.errors.write,
    summary.errors.timeout, wrong))
  if example ~= "" then io.write("EXAMPLE " .. example:gsub("[\\r\\n]", " ") .. "\\n") end
end
threads = {}
function setup(thread) table.insert(threads, thread) end
wrong = 0
"""

# Only in the checked burst: a response callback costs wrk enough to hide a fast server's speed.
_CHECK = """
local ffi = require("ffi")
local expected = {%(expected)s}
local marker = %(marker)s
local function right(status, body)
  if status ~= 200 then return false end
  if not marker then
    local bytes = 4 * #expected
    if #body < bytes then return false end
    local values = ffi.new("float[?]", #expected)
    ffi.copy(values, body:sub(-bytes), bytes)
    for index, value in ipairs(expected) do
      if not (math.abs(values[index - 1] - value) <= %(tolerance)g) then return false end
    end
    return true
  end
  local _, at = body:find(marker, 1, true)
  if not at then return false end
  local index = 0
  for text in body:sub(at + 1):gmatch("%%-?%%d[%%d%%.eE+-]*") do
    index = index + 1
    if not (math.abs(tonumber(text) - expected[index]) <= %(tolerance)g) then return false end
    if index == #expected then return true end
  end
  return false
end
function response(status, headers, body)
  if not right(status, body) then
    wrong = wrong + 1
    example = status .. " " .. body:sub(1, 200)
  end
end
"""


class LoadFailed(Exception):
    """The load generator could not do its work, or the server did not do its own."""


@dataclass(frozen=True, slots=True)
class Load:
    """One measured run. Latencies in ms; `errors` counts bad statuses, socket errors and timeouts."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_s: float = 0.0
    wrong: int = 0

    @property
    def requests_per_s(self) -> float:
        """Answered requests per second, bad ones included."""
        return self.requests / self.seconds

    @property
    def cpu_us_per_request(self) -> float:
        """Server CPU per request in microseconds."""
        return self.cpu_s * 1e6 / max(1, self.requests)


@dataclass(frozen=True, slots=True)
class Target:
    """A running server's address and one question to it with its known answer (None: the answer is not looked at)."""

    port: int
    request: Request
    protocol: Protocol
    expected: Array | None


def require_wrk() -> str:
    """The path of wrk; raises `LoadFailed` with the way to install it."""
    found = shutil.which("wrk")
    if found is None:
        raise LoadFailed("wrk is not installed: `apt-get install wrk` (or your system's package), then again")
    return found


def script(target: Target, check: bool) -> str:
    """The Lua script that makes wrk send the request and, with `check`, compare every answer."""
    headers = {**target.request.headers, "Content-Length": str(len(target.request.body))}
    lines = ['wrk.method = "POST"', f"wrk.body = {quote(target.request.body)}"]
    lines += [f"wrk.headers[{quote(name.encode())}] = {quote(value.encode())}" for name, value in headers.items()]
    text = "\n".join(lines) + _REPORT
    if check and target.expected is not None:
        marker = target.protocol.marker
        text += _CHECK % {
            "expected": ",".join(repr(float(value)) for value in target.expected),
            "marker": "nil" if marker is None else quote(marker.encode()),
            "tolerance": TOLERANCE,
        }
    return text


def quote(value: bytes) -> str:
    """A Lua string literal for any bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in value) + '"'


def parse(output: str) -> Load:
    """What `done` reported; raises `LoadFailed` with wrk's own words when there is no report."""
    for line in output.splitlines():
        if line.startswith(_RESULT):
            values = json.loads(line.removeprefix(_RESULT))
            errors = sum(values[kind] for kind in ("status", "connect", "read", "write", "timeout"))
            return Load(
                requests=values["requests"],
                seconds=values["duration_us"] / 1e6,
                p50_ms=values["p50_us"] / 1e3,
                p99_ms=values["p99_us"] / 1e3,
                errors=errors,
                wrong=values["wrong"],
            )
    raise LoadFailed(f"wrk printed no result: {output.strip()[-500:]}")


class Wrk:
    """One wrk process, started at once; `result()` waits for its end, leaving the block makes sure of it."""

    def __init__(self, target: Target, connections: int, seconds: float, core: int, check: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        lua = Path(self._folder.name) / "load.lua"
        lua.write_text(script(target, check))
        whole = max(1, round(seconds))
        self._limit_s = whole + 30
        command = ["taskset", "-c", str(core), require_wrk(), "-t", "1", "-c", str(connections), "-d", f"{whole}s"]
        command += ["--timeout", "20s", "-s", str(lua), f"http://127.0.0.1:{target.port}{target.request.path}"]
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
        """The measured run. Raises `LoadFailed` when wrk fails or hangs, `WrongAnswer` when an answer was wrong."""
        try:
            output, _ = self._process.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"wrk did not end within {self._limit_s} s") from None
        load = parse(output)
        if load.wrong:
            example = output.partition("EXAMPLE ")[2].strip()
            raise WrongAnswer(f"{load.wrong} of {load.requests} answers under load were wrong, such as: {example}")
        if load.requests == 0:
            raise LoadFailed("no request was answered")
        return load
