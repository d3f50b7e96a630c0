"""Copies of models that are served while their files may change: what is loaded is read from here and nowhere else.

So all workers load the same bytes, one that is started later too, and neither a file that is cut short while it is
mapped nor one that is replaced by something broken reaches a model in service. A copy is named after where its files
were and what they were like; where the file system can share blocks it costs none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from stat import S_ISREG
from typing import Final

from serving.errors import ArtifactError
from serving.objects.watch import Fingerprint, fingerprint

_FICLONE: Final = 0x40049409
_PART: Final = ".part-"
_LOCK: Final = ".lock"


class Changed(ArtifactError):
    """The files changed while they were copied; try again."""


class Staging:
    """The copies under `directory`, which several servers may share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None

    def place(self, root: Path, files: Fingerprint) -> Path:
        """Where the copy of a model lies, or will."""
        name = hashlib.blake2b(repr((str(root), files)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return self.directory / name

    def take(self, root: Path, files: Fingerprint, artifact: Path) -> None:
        """Copies the model at `root`, of which `files` are all files, unless it is there. Blocks.

        Raises `Changed` where they are others by now, and `ArtifactError`.
        """
        target = self.place(root, files)
        try:
            # First, so that no other server removes what is found.
            self._share()
            if target.is_dir():
                return
            part = Path(tempfile.mkdtemp(prefix=_PART, dir=self.directory))
            try:
                base = root if root.is_dir() else root.parent
                for state in files:
                    _copy(base, base / state.path, part / state.path, artifact)
                if fingerprint(root) != files:
                    raise Changed(f"{root}: {Changed.__doc__}")
                part.chmod(0o755)
                try:
                    part.rename(target)
                except OSError:
                    # Another server may have been quicker.
                    if not target.is_dir():
                        raise
            finally:
                shutil.rmtree(part, ignore_errors=True)
        except FileNotFoundError as error:
            raise Changed(f"{root}: {Changed.__doc__}") from error
        except OSError as error:
            raise ArtifactError(
                f"{root} cannot be copied to {self.directory}: {error.strerror or error}; a model that may change while it "
                "is served is copied (--state-dir says where to)"
            ) from error

    def keep(self, used: Collection[Path]) -> None:
        """Removes the copies that are not among `used`, unless another server shares the directory. Blocks."""
        lock = self._share()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fcntl.flock(lock, fcntl.LOCK_SH)
            return
        for path in self.directory.iterdir():
            if path not in used and path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        fcntl.flock(lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Lets other servers remove what only this one used."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _share(self) -> int:
        """Tells other servers, by a lock that lasts as long as the process, that the directory is in use."""
        if self._lock is None:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        return self._lock


def _copy(base: Path, source: Path, target: Path, artifact: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    inside = source.resolve().is_relative_to(base.resolve()) and (source.exists() or not source.is_symlink())
    if source != artifact and not inside:
        # Whether a model may read what lies elsewhere is for its library to say, which sees the link.
        target.symlink_to(source.resolve())
        return
    if not S_ISREG(source.stat().st_mode):
        raise ArtifactError(f"{source} is not a plain file; a model is made of files")
    with source.open("rb") as original, target.open("xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        except OSError:
            shutil.copyfileobj(original, copy, 1024 * 1024)
