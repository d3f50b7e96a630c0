"""What can be set while the server runs: which records its logs let through, and which requests are traced.

The supervisor has the truth and tells every worker of each change, and each new worker of all. The callers' side, with
the names and rules of the protocol, is `serving.frontends.log_settings` and `serving.frontends.trace_settings`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from serving.errors import BadRequest, UnknownName, Unsupported
from serving.processes.channel import Adjust, Ask, Traced
from serving.runtime.tracing import TraceFile, TraceSetting
from serving.runtime.wiring import Versions
from serving.settings import Settings
from serving.telemetry import logs
from serving.telemetry.logs import Enabled

log = logging.getLogger("serving.supervisor")

MOST_OVERRIDES: Final = 1000
"""Models that may have trace settings of their own."""


class LogChanges(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a caller wants to be let through; None: as it is."""

    info: bool | None = None
    warning: bool | None = None
    error: bool | None = None
    verbose: int | None = None
    iso: bool | None = None


class TraceChanges(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a caller wants to be traced; UNSET: as it is, None: as it is for all models, or was at the start."""

    timestamps: bool | msgspec.UnsetType | None = msgspec.UNSET
    rate: int | msgspec.UnsetType | None = msgspec.UNSET
    count: int | msgspec.UnsetType | None = msgspec.UNSET


class TraceState(msgspec.Struct, frozen=True):
    """What is in force for a model, or for all: how many are still to be traced, and the file."""

    setting: TraceSetting
    file: str


class LogState(msgspec.Struct, frozen=True):
    """What is let through."""

    enabled: Enabled


class Adjustments:
    """Owns these settings; `wired` is what is served."""

    def __init__(self, settings: Settings, wired: Callable[[], Versions]) -> None:
        self._form = settings.log_format
        self._enabled = Enabled.of(settings.log_level, settings.log_format)
        self._wired = wired
        self._file = TraceFile(settings.state_dir / "traces.jsonl")
        self._unwritten = False
        """The last traces could not be written."""
        self._base = TraceSetting()
        self._overrides: dict[str, dict[str, Any]] = {}
        self._left: dict[str, int] = {"": self._base.count}
        """By setting: how many are still to be traced."""

    @property
    def message(self) -> Adjust:
        """All that workers have to know."""
        return Adjust(self._enabled, {name: self._effective(name) for name in ("", *self._overrides)})

    def carry_out(self, ask: Ask) -> tuple[bytes, bool]:
        """The state after what a caller asks, as JSON, and whether it changed. Raises `ServingError`s."""
        if ask.what == "logging":
            if ask.body:
                self._log(msgspec.json.decode(ask.body, type=LogChanges))
            return msgspec.json.encode(LogState(self._enabled)), bool(ask.body)
        name = ask.name or ""
        self._check_name(name)
        changes = msgspec.json.decode(ask.body, type=TraceChanges) if ask.body else TraceChanges()
        changed = changes != TraceChanges()
        if changed:
            self._trace(name, changes)
        state = TraceState(self._effective(name), str(self._file.path))
        return msgspec.json.encode(state), changed

    def traced(self, traces: Traced) -> bool:
        """Writes what a worker traced; True where that was the last of a setting, which workers are to be told."""
        lines: list[bytes] = []
        ended = False
        for name, line in traces.traces:
            left = self._left.get(name, 0)
            if not left:
                continue
            lines.append(line)
            if left > 0:
                self._left[name] = left - 1
                ended = ended or left == 1
        if lines:
            self._write(lines)
        return ended

    def _write(self, lines: list[bytes]) -> None:
        try:
            self._file.write(lines)
        except OSError as error:
            # A full disk stays full for a while: it is told of once.
            if not self._unwritten:
                log.error("traces cannot be written to %s: %s", self._file.path, error.strerror)
            self._unwritten = True
        else:
            self._unwritten = False

    # ------------------------------------------------------------------ logs

    def _log(self, changes: LogChanges) -> None:
        wanted = {name: value for name, value in _given(changes).items() if value is not None}
        if self._form == "json" and wanted.get("iso") is False:
            raise Unsupported("log_format is ISO8601 while the log is written as JSON; --log-format human has others")
        if wanted:
            log.warning("a caller changes what the log lets through: %s", wanted)
        self._enabled = msgspec.structs.replace(self._enabled, **wanted)
        logs.adjust(self._enabled)

    # ------------------------------------------------------------------ traces

    def _trace(self, name: str, changes: TraceChanges) -> None:
        given = {field: value for field, value in _given(changes).items() if value is not msgspec.UNSET}
        self._forget_gone()
        if not name:
            defaults = msgspec.to_builtins(TraceSetting())
            wanted = {field: defaults[field] if value is None else value for field, value in given.items()}
            self._base = msgspec.structs.replace(self._base, **wanted)
            if "count" in wanted:
                for one in ("", *self._overrides):
                    if "count" not in self._overrides.get(one, {}):
                        self._left[one] = self._base.count
            return
        if name in self._multi_models():
            raise BadRequest(f"'{name}' has many models; name the one that is to be traced as '{name}:MODEL'")
        if name not in self._overrides and len(self._overrides) >= MOST_OVERRIDES:
            raise BadRequest(
                f"{MOST_OVERRIDES} models have trace settings of their own, and no more can; clear one with null"
            )
        override = {**self._overrides.get(name, {}), **given}
        override = {field: value for field, value in override.items() if value is not None}
        if override:
            self._overrides[name] = override
            # Only a count that is given starts again.
            if "count" in given or name not in self._left:
                self._left[name] = override.get("count", self._left[""])
        else:
            self._overrides.pop(name, None)
            self._left.pop(name, None)

    def _effective(self, name: str) -> TraceSetting:
        """What is in force for a model; its count is what is left of it."""
        override: Mapping[str, Any] = self._overrides.get(name, {})
        left = self._left[name if name in self._overrides else ""]
        return msgspec.structs.replace(self._base, **{**override, "count": left})

    def _check_name(self, name: str) -> None:
        endpoint, colon, _ = name.partition(":")
        found = [one for one in self._wired() if one.name == endpoint]
        if name and not (found and (not colon or found[0].targets is not None)):
            raise UnknownName(f"Request for unknown model: '{name}' is not found")

    def _multi_models(self) -> set[str]:
        return {one.name for one in self._wired() if one.targets is not None}

    def _forget_gone(self) -> None:
        """Models that are not served any more have no settings."""
        names = {one.name for one in self._wired()}
        for name in [name for name in self._overrides if name.partition(":")[0] not in names]:
            del self._overrides[name], self._left[name]


def _given(changes: msgspec.Struct) -> dict[str, Any]:
    return {field: getattr(changes, field) for field in changes.__struct_fields__}
