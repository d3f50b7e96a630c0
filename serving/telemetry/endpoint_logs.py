"""Logs of endpoints: records that name one are kept beside the server's own log, for the endpoint's owner to read.

A record belongs to an endpoint when it has the attribute `endpoint` (and `variant`), given as `extra` or by an
`EndpointLogger`. It becomes a line of `DIRECTORY/ENDPOINT/VARIANT/NODE-WORKER.jsonl`, {"t": epoch milliseconds,
"m": text}. A stream has at most two files, this one and `.jsonl.1` with what came before. A stream that nothing was
written to for 14 days goes, and before that the longest silent ones once all take more than 256 MiB: so the logs of an
endpoint outlive it, within these bounds. Records hold no bodies.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

VARIANT: Final = "AllTraffic"
"""The variant of a record that names none: what SageMaker's SDK calls the only one."""

SUFFIX: Final = ".jsonl"
OLDER: Final = ".jsonl.1"

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What may become a part of a path."""


class LogLimits(msgspec.Struct, frozen=True):
    """The bounds of all logs: bytes of a text, of a file and of all, seconds without a record, and what is held open.

    `queued` records wait for the disk at most; what comes then is left out, and the next line says how many.
    """

    text_bytes: int = 8 * 1024
    file_bytes: int = 1024 * 1024
    all_bytes: int = 256 * 1024 * 1024
    silent_s: float = 14 * 86_400.0
    open_files: int = 32
    queued: int = 1000
    look_every_s: float = 60.0


LIMITS: Final = LogLimits()


class EndpointLogs(logging.Handler):
    """Writes records that name an endpoint to its log, on a thread of its own: whoever logs never waits for the disk."""

    def __init__(self, directory: Path, node: str, worker: str, limits: LogLimits = LIMITS) -> None:
        super().__init__()
        self._files = _Files(directory, f"{_clean(node)}-{_clean(worker)}", limits)
        self._limits = limits
        self._waiting: queue.SimpleQueue[_Line | threading.Event | None] = queue.SimpleQueue()
        self._left_out = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hands a record over; one that names no endpoint, or no possible one, is passed by. Never raises."""
        endpoint = getattr(record, "endpoint", None)
        if endpoint is None:
            return
        try:
            variant = getattr(record, "variant", None) or VARIANT
            if not (NAME.fullmatch(endpoint) and NAME.fullmatch(variant)):
                return
            if self._waiting.qsize() >= self._limits.queued:
                self._left_out += 1
                return
            text = _limited(_text(record), self._limits.text_bytes)
            if self._left_out:
                text += (
                    f" ({self._left_out} records before it were left out: they came faster than the disk takes them)"
                )
                self._left_out = 0
            self._waiting.put(_Line((endpoint, variant), int(record.created * 1000), text))
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="endpoint-logs", daemon=True)
                self._thread.start()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """A record that cannot be kept is lost; the server's own log has it."""

    def flush(self) -> None:
        """Waits until all that was handed over before is written, for a second at most."""
        if self._thread is not None and self._thread.is_alive():
            written = threading.Event()
            self._waiting.put(written)
            written.wait(1.0)

    def close(self) -> None:
        """Writes what waits, for a second at most, and ends the thread."""
        self.acquire()
        try:
            thread, self._thread = self._thread, None
        finally:
            self.release()
        if thread is not None:
            self._waiting.put(None)
            thread.join(1.0)
        super().close()

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            # The disk may be full or gone: the server serves on, and its own log has the record.
            with suppress(OSError):
                self._files.append(line)
        self._files.close()


class _Line(msgspec.Struct, frozen=True):
    """A record on its way to the log of an endpoint and variant."""

    of: tuple[str, str]
    ms: int
    text: str


class _Files:
    """The files of one process's streams, the last used of them open."""

    def __init__(self, directory: Path, stream: str, limits: LogLimits) -> None:
        self._directory = directory
        self._stream = stream
        self._limits = limits
        self._open: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._next_look = 0.0

    def append(self, line: _Line) -> None:
        """Writes a line at the end of its stream, all of it or none that is read. Raises `OSError`."""
        data = orjson.dumps({"t": line.ms, "m": line.text}) + b"\n"
        file = self._file(line.of)
        state = os.fstat(file)
        if not state.st_nlink or (state.st_size and state.st_size + len(data) > self._limits.file_bytes):
            self._turn(line.of, state)
            file = self._file(line.of)
        if os.write(file, data) != len(data):
            # The next one to open it ends the half line.
            self._forget(line.of)
            raise OSError("the disk is full")

    def close(self) -> None:
        """Closes all files."""
        for of in list(self._open):
            self._forget(of)

    def _file(self, of: tuple[str, str]) -> int:
        file = self._open.get(of)
        if file is not None:
            self._open.move_to_end(of)
            return file
        if len(self._open) >= self._limits.open_files:
            self._forget(next(iter(self._open)))
        path = self._path(of)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._open[of] = file
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            os.write(file, b"\n")
        self._look()
        return file

    def _turn(self, of: tuple[str, str], state: os.stat_result) -> None:
        """Begins a new file of a stream, unless another process that shares it has, or it was removed."""
        self._forget(of)
        path = self._path(of)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == state.st_ino:
                path.replace(path.with_name(f"{self._stream}{OLDER}"))

    def _forget(self, of: tuple[str, str]) -> None:
        os.close(self._open.pop(of))

    def _path(self, of: tuple[str, str]) -> Path:
        return self._directory / of[0] / of[1] / f"{self._stream}{SUFFIX}"

    def _look(self) -> None:
        """Removes what is too old or too much, now and then."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._limits.look_every_s
            prune(self._directory, self._limits, time.time())


def prune(directory: Path, limits: LogLimits, now: float) -> None:
    """Removes what was silent for too long and, while all logs take too much, what was silent longest. `now`: epoch s."""
    files = sorted(_states(directory), key=lambda found: found[1].st_mtime, reverse=True)
    total = 0
    for path, state in files:
        total += state.st_size
        if total > limits.all_bytes or now - state.st_mtime > limits.silent_s:
            with suppress(OSError):
                path.unlink()
                # Only what holds nothing goes.
                path.parent.rmdir()
                path.parent.parent.rmdir()


def _states(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in directory.glob("*/*/*"):
        if path.name.endswith((SUFFIX, OLDER)):
            with suppress(OSError):
                yield path, path.stat(follow_symlinks=False)


# ---------------------------------------------------------------- what logs


class EndpointLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records belong to an endpoint, few a second: a model that fails under load floods nothing.

    It lets `burst` records pass at once and `per_s` in the long run; the next that passes tells how many did not.
    """

    def __init__(
        self,
        logger: logging.Logger,
        endpoint: str,
        variant: str | None = None,
        *,
        per_s: float = 5.0,
        burst: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        extra: dict[str, object] = {"endpoint": endpoint}
        super().__init__(logger, extra | ({"variant": variant} if variant else {}))
        self._per_s = per_s
        self._burst = float(burst)
        self._clock = clock
        self._allowed = float(burst)
        self._seen = clock()
        self._left_out = 0

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Logs, or counts what it leaves out."""
        if not self.isEnabledFor(level):
            return
        # Threads that come here at the same time may let one record more pass.
        now = self._clock()
        self._allowed = min(self._burst, self._allowed + (now - self._seen) * self._per_s)
        self._seen = now
        if self._allowed < 1.0:
            self._left_out += 1
            return
        self._allowed -= 1.0
        left_out, self._left_out = self._left_out, 0
        if left_out:
            msg = f"{msg} ({left_out} records before it were left out)"
        # The record names the line of whoever called this.
        super().log(level, msg, *args, **{"stacklevel": 2, **kwargs})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Adds the endpoint to a record, beside what its own `extra` says."""
        own: Mapping[str, object] = kwargs.get("extra") or {}
        return msg, {**kwargs, "extra": {**(self.extra or {}), **own}}


def _text(record: logging.LogRecord) -> str:
    text = f"{record.levelname} {record.getMessage()}"
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def _limited(text: str, limit: int) -> str:
    """A text of at most about that many bytes: its begin and its end, which is where an exception says what was wrong."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    head, tail = data[: limit // 4], data[-(limit - limit // 4) :]
    return f"{head.decode(errors='ignore')} [...] {tail.decode(errors='ignore')}"


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:60] or "x"
