"""A model on this machine as a model.tar.gz, the same bytes each time: nothing but the model's own files, no links."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, Final, cast

import click
import msgspec

from serving.errors import encodable
from serving.objects.repository import ARCHIVE_SUFFIXES, MODEL_YAML, PACKED, is_model

_LEVEL: Final = 1
"""Weights hardly shrink, and a large model is not to take minutes."""


class Packed(msgspec.Struct, frozen=True):
    """An archive, and the SHA-256 of what is in it."""

    file: Path
    digest: str


def pack(path: Path, target: Path) -> Packed:
    """The model at `path`, a file or a directory, as an archive: `target`, unless it is one already.

    Hidden files stay behind. Raises `click.ClickException`, which names the file.
    """
    try:
        archive = path / PACKED if path.is_dir() and (path / PACKED).is_file() else path
        if archive.is_file() and archive.name.endswith(ARCHIVE_SUFFIXES):
            if archive != path and is_model(path):
                raise click.ClickException(
                    f"{path} holds {PACKED}, and beside it a model or settings of one; deploy one of them"
                )
            with archive.open("rb") as stream:
                return Packed(archive, hashlib.file_digest(stream, "sha256").hexdigest())
        return Packed(target, _write(path, target))
    except OSError as error:
        raise click.ClickException(f"{error.filename or path} cannot be packed: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise click.ClickException(f"{path} cannot be packed: {error}") from error


def _write(path: Path, target: Path) -> str:
    count = 0
    with target.open("wb") as out, gzip.GzipFile("", "wb", _LEVEL, out, mtime=0) as zipped:
        hashed = _Hashed(cast("IO[bytes]", zipped))
        with tarfile.open(fileobj=cast("IO[bytes]", hashed), mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for file, name in _files(path):
                with file.open("rb") as stream:
                    info = tarfile.TarInfo(name)
                    info.size = stream.seek(0, 2)
                    info.mode = 0o644
                    stream.seek(0)
                    tar.addfile(info, stream)
                count += 1
    if not count:
        raise click.ClickException(f"{path} holds no files")
    return hashed.digest.hexdigest()


class _Hashed(io.RawIOBase):
    """Writes on, and hashes what it wrote: the content decides, however it was compressed."""

    def __init__(self, out: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._out = out

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._out.write(data)


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """The files of a model and their names in its archive, in one order."""
    if not path.is_dir():
        # What was named itself may be a link: it is what was meant.
        yield _plain(path, Path("/")), path.name
        if path.stem == "model" and (beside := path.parent / MODEL_YAML).is_file():
            yield _plain(beside, path.parent), MODEL_YAML
        return
    for file in _directory(path):
        if str(file) != encodable(str(file)):
            raise click.ClickException(f"{encodable(str(file))}: the name is not UTF-8")
        yield _plain(file, path), file.relative_to(path).as_posix()


def _directory(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and entry.is_dir():
            raise click.ClickException(f"{entry} is a link to a directory; put the directory itself there")
        if entry.is_dir():
            yield from _directory(entry)
        else:
            yield entry


def _plain(file: Path, root: Path) -> Path:
    """The file that is packed: itself, or what it is a link to, if that lies in the model's directory."""
    try:
        real = file.resolve()
    except RuntimeError as error:
        raise click.ClickException(f"{file} is a link that leads back to itself; put the file itself there") from error
    if file.is_symlink() and not real.is_relative_to(root.resolve()):
        raise click.ClickException(f"{file} is a link to {real}, outside of the model's directory; copy the file there")
    if not S_ISREG(real.stat().st_mode):
        raise click.ClickException(f"{file} is not a plain file; a model is made of files")
    return real
