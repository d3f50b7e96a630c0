"""Traces: when requests came, ran and were answered, of every so many of a model's, as lines of JSON in one file.

A worker samples the requests that its routes tell it of; the supervisor counts the traces and writes the file. The names
of the moments are those that Triton's traces have, in nanoseconds since 1970.
Source: Triton's trace extension and its user guide, "Trace".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Final

import msgspec
import orjson

if TYPE_CHECKING:
    from serving.runtime.invocation import Invocation

MOST_WAITING: Final = 4096
"""Traces of a worker that wait to be told at most; what comes then is not traced."""

FILE_BYTES: Final = 64 * 1024 * 1024
"""A file that would grow past this becomes `FILE.1`, in place of the one before it."""


class TraceSetting(msgspec.Struct, frozen=True):
    """Whether requests are traced, every `rate`-th of them, until `count` were (-1: for ever)."""

    timestamps: bool = False
    rate: int = 1000
    count: int = -1

    @property
    def on(self) -> bool:
        """Whether anything is traced."""
        return self.timestamps and self.count != 0


class Sampler:
    """Picks the requests of one model of one worker that are traced. Lives on the worker's loop."""

    __slots__ = ("_name", "_rate", "_seen", "_tracing")

    def __init__(self, name: str, rate: int, tracing: Tracing) -> None:
        self._name = name
        self._rate = rate
        self._seen = 0
        self._tracing = tracing

    def see(self, item: Invocation, formed: float, ended: float, sent: float) -> None:
        """A request was answered; the times are those of `Destination.count`."""
        self._seen += 1
        if self._seen >= self._rate:
            self._seen = 0
            self._tracing.take(self._name, item, formed, ended, sent)


class Tracing:
    """What one worker traces: the settings by model, that of "" for all others. `send` takes what was traced, or tells by
    False that it did not, and then it is lost.

    Each trace is the name of its setting and an object of JSON.
    """

    def __init__(
        self,
        settings: Mapping[str, TraceSetting],
        send: Callable[[list[tuple[str, bytes]]], bool],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        self._settings = settings
        self._send = send
        self._later = later
        self._waiting: list[tuple[str, bytes]] = []
        self._left = {name: setting.count for name, setting in settings.items()}
        self._samplers: dict[str, Sampler] = {}

    @property
    def on(self) -> bool:
        """Whether anything is traced."""
        return any(setting.on for setting in self._settings.values())

    def sampler(self, model: str) -> Sampler | None:
        """What picks a model's requests; None where none of them is traced."""
        name = model if model in self._settings else ""
        setting = self._settings.get(name)
        if setting is None or not setting.on:
            return None
        if model not in self._samplers:
            self._samplers[model] = Sampler(name, setting.rate, self)
        return self._samplers[model]

    def take(self, name: str, item: Invocation, formed: float, ended: float, sent: float) -> None:
        """Traces a request under a setting, unless enough of it were; the times are those of `Destination.count`."""
        left = self._left[name]
        if not left or len(self._waiting) >= MOST_WAITING:
            return
        if left > 0:
            self._left[name] = left - 1
        if not self._waiting:
            self._later(self.flush)
        self._waiting.append((name, _trace(item, formed, ended, sent)))

    def flush(self) -> None:
        """Sends what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting and not self._send(waiting):
            for name, _ in waiting:
                if self._left[name] >= 0:
                    self._left[name] += 1


class TraceFile:
    """The file of all traces; each line is an object that begins with the number of the trace."""

    def __init__(self, path: Path, most_bytes: int = FILE_BYTES) -> None:
        self.path = path
        self._most_bytes = most_bytes
        self._written = 0

    def write(self, traces: list[bytes]) -> None:
        """Appends the traces. Raises `OSError`."""
        lines = []
        for trace in traces:
            self._written += 1
            lines.append(b'{"id":%d,%b\n' % (self._written, trace[1:]))
        data = b"".join(lines)
        if self.path.exists() and self.path.stat().st_size + len(data) > self._most_bytes:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self.path, flags, 0o600), "ab") as file:
            file.write(data)


def _trace(item: Invocation, formed: float, ended: float, sent: float) -> bytes:
    model = item.route.model
    beginning = time_ns() - round(perf_counter() * 1e9)
    moments = (
        ("REQUEST_START", item.arrived),
        ("QUEUE_START", item.enqueued),
        ("COMPUTE_START", formed),
        ("COMPUTE_END", ended),
        ("REQUEST_END", sent),
    )
    trace: dict[str, object] = {"model_name": model.name, "model_version": model.version}
    if item.asked is not None and item.asked.id:
        trace["request_id"] = item.asked.id
    trace["timestamps"] = [{"name": name, "ns": beginning + round(moment * 1e9)} for name, moment in moments]
    return orjson.dumps(trace)
