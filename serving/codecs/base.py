"""What every codec speaks: the decoded request, what its caller asked of the answer, and the two callables between.

A decoded request is a plain tuple because the hot path makes one per request:

    (rows, columns, signature, asked)

`rows`: rows of the batch dimension (1 for a model that is not batched). `columns`: one item per model input, in the
order of `ModelSpec.inputs`: a little-endian C-order buffer, or for BYTES a flat list of `bytes`. `signature`: the shape
of each input without its batch dimension (whole shapes when the model is not batched), or None when the model's own
spec fixes them all; only requests of equal signature may share a batch. `asked`: what the body said of the answer, or
None for the default of its media type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from serving.contract import Array

Buffer: TypeAlias = bytes | bytearray | memoryview
Column: TypeAlias = Buffer | list[bytes]
Signature: TypeAlias = tuple[tuple[int, ...], ...]


class Style(Enum):
    """The form of a JSON question, which its answer mirrors."""

    INSTANCES = "instances"
    INPUTS = "inputs"
    BARE = "bare"
    OPEN_INFERENCE = "open-inference"


@dataclass(slots=True)
class RequestedOutput:
    """One output that a v2 request names; `classification` is the number of top classes, 0 for the values."""

    name: str
    binary: bool = False
    classification: int = 0


@dataclass(slots=True)
class Asked:
    """What a body said beside its tensors. `priority` 0 and `timeout_us` 0 mean the model's defaults."""

    style: Style
    id: str | None = None
    outputs: tuple[RequestedOutput, ...] = ()
    binary_output: bool = False
    priority: int = 0
    timeout_us: int = 0


Decoded: TypeAlias = tuple[int, tuple[Column, ...], Signature | None, Asked | None]

Decode: TypeAlias = Callable[[Buffer], Decoded]
"""Body to decoded request; raises `MalformedBody` or `InvalidInput`."""

Encoded: TypeAlias = tuple[bytes, bytes]
"""Header lines (`content-type: ...\\r\\n` and what else the format needs, each ended by CRLF), and the body."""

Encode: TypeAlias = Callable[[Sequence[Array], Asked | None], Encoded]
"""This caller's rows of each output, in the order of `ModelSpec.outputs`, to an answer."""
