"""The trace extension: which requests are traced, as plain data for every transport.

Of each model every `trace_rate`-th request of a worker is traced, until `trace_count` of the setting were (-1: for ever), as a
line of JSON in `trace_file`. A model's own settings take the place of those of all models, each by itself; `null` clears
them, and brings those of all models back to what they were at the start. `trace_count` tells how many are still to come.
`trace_level` TENSORS, a `log_frequency`, a `trace_mode` other than triton and another `trace_file` are not supported, the last
because a caller would say where on its disk the server writes.
Source: Triton's trace extension.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from serving.errors import BadRequest, Unsupported
from serving.runtime.tracing import TraceSetting

LEVELS: Final = ("OFF", "TIMESTAMPS", "TENSORS")
MODE: Final = "triton"
MOST: Final = 2**31 - 1
"""Of rate and count."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,10}")


class TraceControl(Protocol):
    """Who can change what all workers trace."""

    async def setting(self, what: str, name: str | None, changes: bytes) -> bytes:
        """The state of `trace`, of all models or one, after these changes, both as JSON. Raises `UnknownName`, `BadRequest`."""


class _State(msgspec.Struct, frozen=True):
    setting: TraceSetting
    file: str


async def trace_setting(admin: TraceControl, name: str, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings in force for a model ("": for all that have none of their own), once the changes are, where there are any.

    A list of strings (`trace_level`) or a string by name, which for `TraceSettingResponse` are the `value` of `settings[name]`,
    a single string as a list of it. In `changes` a string, an integer, a list of strings or None, which clears, as an empty
    list does (a `SettingValue` without `value`). Raises `UnknownName`, `BadRequest` or `Unsupported`, and then nothing is changed.
    """
    wanted = b"" if changes is None else msgspec.json.encode(_read(changes))
    state = msgspec.json.decode(await admin.setting("trace", name or None, wanted), type=_State)
    return {
        "trace_file": state.file,
        "trace_level": ["TIMESTAMPS" if state.setting.timestamps else "OFF"],
        "trace_rate": str(state.setting.rate),
        "trace_count": str(state.setting.count),
        "log_frequency": "0",
        "trace_mode": MODE,
    }


def _read(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes as the server has them; None clears."""
    found: dict[str, Any] = {}
    for name, value in changes.items():
        read = _READ.get(name)
        if read is None:
            raise BadRequest(f"there is no trace setting '{name[:80]}'; {', '.join(_READ)} were expected")
        found |= read(name, None if value in ([], ()) else value)
    return found


def _level(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {"timestamps": None}
    levels = [value] if isinstance(value, str) else value
    if not isinstance(levels, list | tuple) or not all(isinstance(level, str) and level in LEVELS for level in levels):
        raise BadRequest(f"the trace setting '{name}' is {_shown(value)}; {', '.join(LEVELS)} were expected")
    if "TENSORS" in levels:
        raise Unsupported(
            f"the trace setting '{name}' has TENSORS, which this server does not trace; TIMESTAMPS it does"
        )
    if len(set(levels)) > 1:
        raise BadRequest(f"the trace setting '{name}' is {_shown(value)}; OFF goes with no other level")
    return {"timestamps": levels[0] == "TIMESTAMPS"}


def _rate(name: str, value: Any) -> dict[str, Any]:
    return {"rate": None if value is None else _integer(name, value, 1)}


def _count(name: str, value: Any) -> dict[str, Any]:
    return {"count": None if value is None else _integer(name, value, -1)}


def _frequency(name: str, value: Any) -> dict[str, Any]:
    if value is not None and _integer(name, value, 0):
        raise Unsupported(f"the trace setting '{name}' is not supported: all traces go to one file; 0 was expected")
    return {}


def _mode(name: str, value: Any) -> dict[str, Any]:
    mode = _one(name, value)
    if mode not in (None, MODE):
        raise Unsupported(f"the trace setting '{name}' is {_shown(mode)}, which is not supported; {MODE} was expected")
    return {}


def _file(name: str, value: Any) -> dict[str, Any]:
    if _one(name, value) is not None:
        raise Unsupported(f"the trace setting '{name}' cannot be changed by a call: the server has one file for traces")
    return {}


def _integer(name: str, value: Any, least: int) -> int:
    text = _one(name, value)
    number = int(text) if isinstance(text, str) and _INTEGER.fullmatch(text) else text
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= MOST:
        raise BadRequest(
            f"the trace setting '{name}' is {_shown(value)}; an integer from {least} to {MOST} was expected"
        )
    return number


def _one(name: str, value: Any) -> Any:
    """The only value of a list, or the value itself."""
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise BadRequest(f"the trace setting '{name}' has {len(value)} values; one was expected")
        value = value[0]
    if value is not None and not isinstance(value, str | int):
        raise BadRequest(f"the trace setting '{name}' is {_shown(value)}; a string was expected")
    return value


def _shown(value: Any) -> str:
    return f"{value!r:.80}"


_READ: Final[dict[str, Callable[[str, Any], dict[str, Any]]]] = {
    "trace_level": _level,
    "trace_rate": _rate,
    "trace_count": _count,
    "log_frequency": _frequency,
    "trace_mode": _mode,
    "trace_file": _file,
}
