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
def landing(url: str, target: Path, *, sync: bool = True) -> Iterator[int]:
    """The descriptor of an empty file that becomes `target`, synced to disk, when the block ends without an error.

    Without `sync` it is `target` itself, which must not be there yet: quicker, and not whole where the process is killed.
    On any error nothing stays behind. Raises `ArtifactError` where the file cannot be written.
    """
    part: str | None = None
    try:
        if sync:
            descriptor, part = tempfile.mkstemp(prefix=PART, dir=target.parent)
        else:
            descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            part = str(target)
        try:
            yield descriptor
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if sync:
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
