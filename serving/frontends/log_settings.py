"""The logging extension: which records the logs of all processes let through, as plain data for every transport.

`log_info`, `log_warning` and `log_error` let each level through by itself, and `log_verbose_level` those for developers
where it is not 0. `log_format` is how lines for people are dated: `default` (the time of day) or `ISO8601`; a log of JSON
is always dated the second way. The log is the standard error of the server: `log_file` is "".
Source: Triton's logging extension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from serving.errors import BadRequest, Unsupported
from serving.telemetry.logs import Enabled

MOST_VERBOSE: Final = 2**32 - 1

_FORMATS: Final = {"default": False, "ISO8601": True}


class LogControl(Protocol):
    """Who can change the logs of all processes."""

    async def setting(self, what: str, name: str | None, changes: bytes) -> bytes:
        """The state of `logging` after these changes, both as JSON. Raises `Unsupported`."""


class _State(msgspec.Struct, frozen=True):
    enabled: Enabled


async def log_settings(admin: LogControl, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings in force, once the changes are, where there are any.

    A string, bool or integer by name, which for `LogSettingsResponse` are the `string_param`, `bool_param` and `uint32_param`
    of `settings[name]`; `changes` are the same. Raises `BadRequest` or `Unsupported`, and then nothing is changed.
    """
    wanted = b"" if changes is None else msgspec.json.encode(_read(changes))
    enabled = msgspec.json.decode(await admin.setting("logging", None, wanted), type=_State).enabled
    return {
        "log_file": "",
        "log_info": enabled.info,
        "log_warning": enabled.warning,
        "log_error": enabled.error,
        "log_verbose_level": enabled.verbose,
        "log_format": "ISO8601" if enabled.iso else "default",
    }


def _read(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes as the server has them."""
    found: dict[str, Any] = {}
    for name, value in changes.items():
        read = _READ.get(name)
        if read is None:
            raise BadRequest(f"there is no log setting '{name[:80]}'; {', '.join(_READ)} were expected")
        found |= read(name, value)
    return found


def _flag(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, bool):
        raise BadRequest(f"the log setting '{name}' is {_shown(value)}; true or false was expected")
    return {name.removeprefix("log_"): value}


def _verbose(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_VERBOSE:
        raise BadRequest(
            f"the log setting '{name}' is {_shown(value)}; an integer from 0 to {MOST_VERBOSE} was expected"
        )
    return {"verbose": value}


def _format(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or value not in _FORMATS:
        raise BadRequest(f"the log setting '{name}' is {_shown(value)}; {' or '.join(_FORMATS)} was expected")
    return {"iso": _FORMATS[value]}


def _file(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise BadRequest(f"the log setting '{name}' is {_shown(value)}; a string was expected")
    if value:
        raise Unsupported(
            f"the log setting '{name}' cannot be changed: the log is the server's standard error, which whoever starts it "
            "may send to a file"
        )
    return {}


def _shown(value: Any) -> str:
    return f"{value!r:.80}"


_READ: Final[dict[str, Callable[[str, Any], dict[str, Any]]]] = {
    "log_file": _file,
    "log_info": _flag,
    "log_warning": _flag,
    "log_error": _flag,
    "log_verbose_level": _verbose,
    "log_format": _format,
}
