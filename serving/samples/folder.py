"""A model folder on disk: written whole, and told apart from one that an older recipe made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether every one of `files` is in `folder` with exactly that content."""
    try:
        return all((folder / name).read_bytes() == content for name, content in files.items())
    except FileNotFoundError:
        return False


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files` into `folder` in their order, each one whole or not at all; other files there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
