"""Which versions of a model are served: the policy, and what becomes of it where some of them cannot be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from serving.contract import VersionPolicy

Wired = TypeVar("Wired")


def chosen(policy: VersionPolicy, versions: Sequence[str]) -> tuple[str, ...]:
    """Those of `versions`, given newest first, that the policy serves, newest first."""
    if policy.all:
        return tuple(versions)
    if policy.specific:
        wanted = {str(number) for number in policy.specific}
        return tuple(version for version in versions if version in wanted)
    return tuple(versions[: policy.latest or 1])


def missing(policy: VersionPolicy, versions: Sequence[str]) -> tuple[str, ...]:
    """The specific versions that the policy names and that are not there."""
    return tuple(str(number) for number in policy.specific if str(number) not in versions)


def wanted(
    policy: VersionPolicy,
    versions: Sequence[str],
    on_disk: Mapping[str, Wired],
    in_force: Mapping[str, Wired],
    failed: Mapping[str, Wired],
) -> tuple[Wired, ...]:
    """What is to be served of a model, newest first.

    `versions` are all that its directory has, newest first; `on_disk` those that can be read, `in_force` those that are
    served, `failed` what could not be loaded. A version that cannot be had as it is on disk goes on as it is served,
    or counts as not there, so that an older one stays; and where nothing is left, all stays as it is.
    """
    good: dict[str, Wired] = {}
    for version in versions:
        new = on_disk.get(version)
        if new is None or failed.get(version) == new:
            new = in_force.get(version)
        if new is not None:
            good[version] = new
    return tuple(good[version] for version in chosen(policy, tuple(good))) or tuple(in_force.values())
