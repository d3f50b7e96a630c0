"""Deployment guardrails: how traffic moves to a new deployment, and what in a DeploymentConfig excludes what.

Source: "Deployment guardrails" of the Developer Guide; TrafficRoutingConfig and RollingUpdatePolicy, API reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving.errors import ControlFault

SIZES: Final = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}
"""The member that says how much traffic moves in one step, by type of routing."""

PERCENT: Final = {
    "CanarySize": (1, 50),
    "LinearStepSize": (10, 50),
    "MaximumBatchSize": (5, 50),
    "RollbackMaximumBatchSize": (1, 100),
}
"""Bounds of each size, where it is in percent of the capacity."""


def check(config: Mapping[str, Any]) -> None:
    """Refuses a DeploymentConfig that contradicts itself. Raises `ControlFault`."""
    policies = [name for name in ("BlueGreenUpdatePolicy", "RollingUpdatePolicy") if name in config]
    if len(policies) > 1:
        raise ControlFault("DeploymentConfig has both BlueGreenUpdatePolicy and RollingUpdatePolicy; give one of them")
    if "BlueGreenUpdatePolicy" in config:
        _check_blue_green(config["BlueGreenUpdatePolicy"])
    if "RollingUpdatePolicy" in config:
        policy = config["RollingUpdatePolicy"]
        _check_percent(policy, "MaximumBatchSize")
        _check_percent(policy, "RollbackMaximumBatchSize")
        _check_time(policy, policy["WaitIntervalInSeconds"])


def _check_blue_green(policy: Mapping[str, Any]) -> None:
    routing = policy["TrafficRoutingConfiguration"]
    needed = SIZES.get(routing["Type"])
    if needed is not None and needed not in routing:
        raise ControlFault(f"TrafficRoutingConfiguration of type {routing['Type']} needs {needed}")
    for member in SIZES.values():
        if member in routing and member != needed:
            raise ControlFault(f"TrafficRoutingConfiguration of type {routing['Type']} cannot have {member}")
        _check_percent(routing, member)
    _check_time(policy, routing["WaitIntervalInSeconds"] + policy.get("TerminationWaitInSeconds", 0))


def _check_percent(holder: Mapping[str, Any], member: str) -> None:
    size = holder.get(member)
    least, most = PERCENT[member]
    if size is not None and size["Type"] == "CAPACITY_PERCENT" and not least <= size["Value"] <= most:
        raise ControlFault(f"{member} is {size['Value']} percent of the capacity; {least} to {most} was expected")


def _check_time(policy: Mapping[str, Any], waits_s: int) -> None:
    most_s = policy.get("MaximumExecutionTimeoutInSeconds")
    if most_s is not None and most_s <= waits_s:
        raise ControlFault(
            f"MaximumExecutionTimeoutInSeconds is {most_s}, which does not exceed the {waits_s} seconds of waiting within it"
        )
