"""What a first load proved and measured of a model, remembered as a hidden file beside its artifact.

A file is `MAGIC`, a BLAKE2b digest and a `Profile` as MessagePack. The digest is that of the profile and of what else it holds
for: the settings, the container and the versions of all installed packages. What does not fit to the last byte, or is of
files that were changed since, is proved again, and nothing ever fails for want of a profile. An archive cannot bring one
that fits: the inodes and change times of its files come to be when it is unpacked.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from stat import S_ISDIR
from typing import Final, NamedTuple

import msgspec

from serving.contract import ModelConfig, ModelSpec

log = logging.getLogger("serving.loading")

MAGIC: Final = b"serving profile 1\n"
"""Its number changes with what is stored, and with what the built-in containers prove."""

MOST_FILES: Final = 32
"""A model among more files, as in a folder of many models, is not remembered: any of them may be part of it."""

MOST_DEPTH: Final = 4
MOST_BYTES: Final = 1 << 20

_DIGEST: Final = 32
_START: Final = len(MAGIC) + _DIGEST

Facts = tuple[int, int, int, int, int]
"""Of a file: device, inode, size, and when its content and anything of it changed (ns)."""

Files = dict[str, Facts]
"""By path from the model's folder."""


class Profile(msgspec.Struct, frozen=True, array_like=True):
    """A model's proved spec, the seconds that a run of so many rows took, and the files that it was proved of."""

    spec: ModelSpec
    costs: tuple[tuple[int, float], ...]
    files: Files


class Place(NamedTuple):
    """Where the profile of an artifact is kept, and what it holds for; `alone`: the artifact where it is a file, as it is."""

    folder: str
    name: str
    key: bytes
    alone: Files


_DECODER: Final = msgspec.msgpack.Decoder(Profile)


def place(container: str, artifact: Path, config: ModelConfig) -> Place | None:
    """The place of an artifact that is to be loaded with these settings; None where there is no such file."""
    path = str(artifact)
    try:
        status = artifact.stat()
    except OSError:
        return None
    folder, name = os.path.split(path)
    # A model may have another name on each endpoint, and neither name nor version is in a spec.
    said = _encoded(msgspec.structs.replace(config, name="", version=""))
    key = b"%b\n%b\n%b" % (container.encode(), _installed(), said)
    if S_ISDIR(status.st_mode):
        return Place(path, f".{name}.profile", key, {})
    return Place(folder or ".", f".{name}.profile", key, {name: _facts(status)})


def load(at: Place) -> Profile | None:
    """What was stored; None where there is none that can be trusted."""
    try:
        file = os.open(f"{at.folder}/{at.name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        written = os.fstat(file)
        content = os.read(file, min(written.st_size, MOST_BYTES))
    except OSError:
        return None
    finally:
        os.close(file)
    if content[:_START] != MAGIC + _digest(at.key + content[_START:]):
        return None
    try:
        profile = _DECODER.decode(content[_START:])
        now = _again(at, profile.files)
    except (msgspec.MsgspecError, OSError):
        return None
    # Of a file that changed in the tick of the clock in which the profile was written, nobody knows which was first.
    late = any(facts[-1] >= written.st_ctime_ns for facts in profile.files.values())
    return None if late or now != profile.files else profile


def files(at: Place) -> Files | None:
    """All files that may be part of the model as they are now; None where they are too many, or cannot be seen."""
    found: Files = {}
    try:
        return found if _collect(at.folder, "", at.name.removesuffix("profile"), found) else None
    except OSError:
        return None


def store(at: Place, profile: Profile) -> None:
    """Keeps a profile in place of another; where that cannot be, it is forgotten."""
    body = msgspec.msgpack.encode(profile)
    content = MAGIC + _digest(at.key + body) + body
    if len(content) > MOST_BYTES:
        return
    part = ""
    try:
        with tempfile.NamedTemporaryFile(dir=at.folder, prefix=at.name.removesuffix("profile"), delete=False) as file:
            part = file.name
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        Path(part).replace(Path(at.folder, at.name))
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        log.debug("what was learned of a model in %s is not kept: %s", at.folder, error.strerror or error)


def _collect(folder: str, prefix: str, kept: str, found: Files) -> bool:
    """Adds all files below but those that are kept beside the model; False: there are too many."""
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            name = prefix + entry.name
            if number >= MOST_FILES or len(found) >= MOST_FILES or name.count("/") >= MOST_DEPTH:
                return False
            if entry.is_dir():
                if not _collect(entry.path, f"{name}/", kept, found):
                    return False
            elif not name.startswith(kept):
                found[name] = _facts(entry.stat())
    return True


def _digest(content: bytes) -> bytes:
    # For a few hundred bytes it takes a tenth of the time of OpenSSL's digests.
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def _again(at: Place, before: Files) -> Files | None:
    """The same files as they are now; all files, where each of a folder is part of the model."""
    if not at.alone:
        return files(at)
    return {name: at.alone.get(name) or _facts(Path(at.folder, name).stat()) for name in before}


def _facts(status: os.stat_result) -> Facts:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _Encoder:
    """Settings as JSON, encoded once for the thousands of models on an endpoint that have them in common."""

    def __init__(self) -> None:
        self._last = ModelConfig(), msgspec.json.encode(ModelConfig())

    def __call__(self, config: ModelConfig) -> bytes:
        last, encoded = self._last
        if config != last:
            encoded = msgspec.json.encode(config)
            self._last = config, encoded
        return encoded


_encoded: Final = _Encoder()


@cache
def _installed() -> bytes:
    """The versions of Python and of every installed package, which may decide what a model answers and how fast."""
    packages: set[str] = set()
    for directory in dict.fromkeys(sys.path):
        with suppress(OSError):
            packages.update(one.name for one in Path(directory).iterdir() if one.suffix in (".dist-info", ".egg-info"))
    versions = " ".join((platform.python_version(), platform.machine(), *sorted(packages)))
    return _digest(versions.encode(errors="surrogateescape"))
