"""Logs: one line a record, for people or as JSON. No record holds a body or a signature."""

from __future__ import annotations

import logging
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from serving.telemetry.endpoint_logs import EndpointLogs

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


CLOCK: Final = "%H:%M:%S"
ISO_8601: Final = "%Y-%m-%dT%H:%M:%S%z"


class Enabled(msgspec.Struct, frozen=True):
    """Which records are let through: each level by itself, and those for developers where `verbose` is not 0.

    `iso`: lines for people have whole dates; those of JSON always do.
    """

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose: int = 0
    iso: bool = False

    @classmethod
    def of(cls, level: str, form: str) -> Enabled:
        """What the settings of a start let through."""
        lowest = _LEVELS[level]
        return cls(
            info=lowest <= logging.INFO,
            warning=lowest <= logging.WARNING,
            verbose=int(lowest <= logging.DEBUG),
            iso=form == "json",
        )

    def lets(self, level: int) -> bool:
        """Whether a record of that level passes."""
        if level >= logging.ERROR:
            return self.error
        if level >= logging.WARNING:
            return self.warning
        return self.info if level >= logging.INFO else self.verbose > 0


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time (RFC 3339, UTC), level, logger, process, message, and the traceback if any."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


class HumanFormatter(logging.Formatter):
    """A record as a line that a person reads."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s {process:<11} %(levelname)-7s %(message)s", CLOCK)


def adjust(enabled: Enabled) -> None:
    """Lets other records of this process through than before, from now on; the logs of endpoints are as they were."""
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    lowest = next((level for level in levels if enabled.lets(level)), logging.CRITICAL + 1)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, EndpointLogs):
            lowest = min(lowest, handler.level)
            continue
        handler.filters[:] = [lambda record: enabled.lets(record.levelno)]
        if isinstance(handler.formatter, HumanFormatter):
            handler.formatter.datefmt = ISO_8601 if enabled.iso else CLOCK
    _set_level(lowest)


def configure(process: str, form: str, level: str, directory: Path | None = None, node: str = "") -> None:
    """Sets up logging of this process on standard error; `form` is `human` or `json`.

    Records that name an endpoint also go to its log under `directory`, where one is given, as those of `node` (the
    machine, where that is empty).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if form == "json" else HumanFormatter(process))
    handlers: list[logging.Handler] = [handler]
    if directory is not None:
        endpoints = EndpointLogs(directory, node or socket.gethostname(), process.removeprefix("worker "))
        endpoints.setLevel(_LEVELS[level])
        handlers.append(endpoints)
    logging.getLogger().handlers[:] = handlers
    _set_level(_LEVELS[level])
    for chatty in ("asyncio", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _set_level(level: int) -> None:
    """The lowest level of records that are made; of libraries, whose own for developers hold bodies, never below INFO."""
    logging.getLogger().setLevel(max(level, logging.INFO))
    logging.getLogger("serving").setLevel(level)
