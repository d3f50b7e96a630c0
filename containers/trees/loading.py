"""Model files to facts and ONNX graphs, converted once: what was kept beside the model is not converted again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from containers.trees import cache, graph
from containers.trees.cache import Converted
from containers.trees.forest import Forest
from serving.errors import ArtifactError

MOST_BYTES: Final = 2**31 - 1
"""Of a model file; an ONNX graph cannot be larger either."""

F = TypeVar("F")
Read = Callable[[bytes, Path], tuple[F, Forest | None]]
"""The facts and the forest of a model file with that content. Raises `ArtifactError`."""


def content_of(path: Path) -> tuple[bytes, bytes]:
    """A file's bytes and their SHA-256. Raises `ArtifactError`."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ArtifactError(f"{path} has {size} bytes; models of up to {MOST_BYTES} are served")
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    return content, hashlib.sha256(content).digest()


def unchanged(path: Path, digest: bytes) -> bytes:
    """The bytes of a file that had that SHA-256 before. Raises `ArtifactError` where it has not any more."""
    content, now = content_of(path)
    if now != digest:
        raise ArtifactError(f"{path} has changed since it was loaded")
    return content


def converted(path: Path, content: bytes, digest: bytes, read: Read[F], kind: type[F], extra: str) -> tuple[F, bytes]:
    """The facts (of the type `kind`) and the graph of a model file, which is empty where `read` finds no forest.

    Raises `ArtifactError` and `MissingExtra`.
    """
    kept = cache.load(path, digest)
    if kept is not None:
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(kept.facts, type=kind), kept.graph
    facts, forest = read(content, path)
    nodes = b"" if forest is None else graph.build(forest, extra)
    cache.store(path, digest, Converted(msgspec.json.encode(facts), nodes))
    return facts, nodes
