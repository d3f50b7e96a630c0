"""The container kinds that are installed: what the entry-point group `serving.containers` names."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import cast

from serving.contract import ContainerKind
from serving.errors import ConfigurationError


@cache
def kinds() -> dict[str, ContainerKind]:
    """Every installed kind by name, in alphabetical order; heavy libraries are only imported once a kind loads."""
    entries = sorted(entry_points(group="serving.containers"), key=lambda entry: entry.name)
    return {entry.name: cast("ContainerKind", entry.load()()) for entry in entries}


def kind(name: str) -> ContainerKind:
    """The kind of that name. Raises `ConfigurationError`."""
    found = kinds().get(name)
    if found is None:
        raise ConfigurationError(f"there is no container kind '{name}'; installed: {', '.join(kinds()) or 'none'}")
    return found
