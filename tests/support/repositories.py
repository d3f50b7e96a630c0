"""What a repository holds, as most tests ask it."""

from __future__ import annotations

from pathlib import Path

from serving.objects.archive import Archives
from serving.objects.repository import ModelSource, look


def resolve(path: Path, name: str | None, archives: Archives) -> ModelSource:
    """The newest version that is served of the model at `path`."""
    return look(path, name, archives).served()[0]
