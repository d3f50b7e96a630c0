"""Statistics, trace and log settings over gRPC: what is asked of the whole server.

Sources: Triton's statistics, trace and logging extensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.frontends.grpc.call import Call
from serving.frontends.grpc.names import full, version_of
from serving.frontends.log_settings import log_settings
from serving.frontends.model_statistics import model_statistics
from serving.frontends.trace_settings import trace_setting

if TYPE_CHECKING:
    from serving.frontends.http.app import Admin


class Operations:
    """The calls of those who operate the server."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    async def model_statistics(self, request: Any, call: Call) -> dict[str, Any]:
        """`ModelStatistics`, of all models where it names none."""
        name = full(request.name) if request.name else ""
        return await model_statistics(self._admin, name, version_of(request.version))

    async def trace_setting(self, request: Any, call: Call) -> dict[str, Any]:
        """`TraceSetting`: a setting without a value is cleared."""
        name = full(request.model_name) if request.model_name else ""
        changes = {setting: list(value.value) for setting, value in request.settings.items()}
        told = await trace_setting(self._admin, name, changes or None)
        return {
            "settings": {
                setting: {"value": value if isinstance(value, list) else [value]} for setting, value in told.items()
            }
        }

    async def log_settings(self, request: Any, call: Call) -> dict[str, Any]:
        """`LogSettings`."""
        changes = {setting: _parameter(value) for setting, value in request.settings.items()}
        told = await log_settings(self._admin, changes or None)
        return {"settings": {setting: {_kind(value): value} for setting, value in told.items()}}


def _parameter(value: Any) -> Any:
    """The value of a setting; None where it has none."""
    kind = value.WhichOneof("parameter_choice")
    return None if kind is None else getattr(value, kind)


def _kind(value: bool | int | str) -> str:
    """The field of a `LogSettingsResponse.SettingValue` for a value."""
    if isinstance(value, bool):
        return "bool_param"
    return "uint32_param" if isinstance(value, int) else "string_param"
