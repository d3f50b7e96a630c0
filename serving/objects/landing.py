"""Where a fetched object lands: a file of another name beside its target until it is whole, then the target."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from serving.errors import ArtifactError

PART: Final = ".part-"
"""How the names of unfinished files begin; one that nobody writes was left by a process that was killed."""


@contextmanager
def landing(url: str, target: Path) -> Iterator[int]:
    """The descriptor of an empty file that becomes `target`, synced to disk, when the block ends without an error.

    On any error nothing stays behind. Raises `ArtifactError` where the file cannot be written.
    """
    part: str | None = None
    try:
        descriptor, part = tempfile.mkstemp(prefix=PART, dir=target.parent)
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(part, target)  # noqa: PTH105
        part = None
    except OSError as error:
        raise ArtifactError(f"{url} cannot be written to {target}: {error.strerror or error}") from error
    finally:
        if part is not None:
            with suppress(OSError):
                os.unlink(part)  # noqa: PTH108


def write(descriptor: int, data: memoryview, at: int) -> None:
    """Writes all of `data` at an offset."""
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written
