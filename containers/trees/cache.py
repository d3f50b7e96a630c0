"""Converted models, kept as a hidden file beside the model that they were made from.

A file is `MAGIC`, the SHA-256 of all that follows, the SHA-256 of the model, the length of the facts (u32, little-endian),
the facts and the graph. What does not fit to the last byte is made again, and nothing ever fails for want of a cache.
Whoever can write here can write the model itself.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import tempfile
from pathlib import Path
from typing import Final

import msgspec

log = logging.getLogger("serving.trees")

MAGIC: Final = b"serving trees 1\n"
"""Its number changes with what is stored: facts, graphs and how they are made."""

_DIGEST: Final = 32


class Converted(msgspec.Struct, frozen=True):
    """A model as it is kept: the facts that its container told of it, as JSON, and its ONNX graph (empty: it has none)."""

    facts: bytes
    graph: bytes


def path_of(model: Path, digest: bytes) -> Path:
    """Where the conversion of a model file with that SHA-256 is kept."""
    return model.with_name(f".{model.name}.{digest.hex()[:16]}.trees")


def load(model: Path, digest: bytes) -> Converted | None:
    """What was stored for the file `model` with that SHA-256; None where there is none that can be trusted."""
    try:
        content = path_of(model, digest).read_bytes()
    except OSError:
        return None
    start = len(MAGIC)
    body = memoryview(content)[start + _DIGEST :]
    whole = content[:start] == MAGIC and content[start : start + _DIGEST] == hashlib.sha256(body).digest()
    if not whole or body[:_DIGEST] != digest:
        log.warning("%s is not what was written there; the model is converted again", path_of(model, digest))
        return None
    facts = _DIGEST + 4
    graph = facts + int.from_bytes(body[_DIGEST:facts], "little")
    return Converted(bytes(body[facts:graph]), bytes(body[graph:]))


def store(model: Path, digest: bytes, converted: Converted) -> None:
    """Keeps a conversion, in place of others of the file `model`; where that cannot be, it says so in the log."""
    target = path_of(model, digest)
    body = digest + len(converted.facts).to_bytes(4, "little") + converted.facts + converted.graph
    try:
        with tempfile.NamedTemporaryFile(dir=model.parent, prefix=f".{model.name}.", delete=False) as part:
            try:
                part.write(MAGIC + hashlib.sha256(body).digest() + body)
                part.close()
                Path(part.name).chmod(0o644)
                Path(part.name).replace(target)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
        for old in model.parent.glob(f".{glob.escape(model.name)}.{'[0-9a-f]' * 16}.trees"):
            if old != target:
                old.unlink(missing_ok=True)
    except OSError as error:
        log.info("the conversion of %s is not kept, it is made at each start: %s", model, error.strerror or error)
