"""ModelInferRequest and ModelInferResponse of the Open Inference Protocol's gRPC service, as bytes.

Clients repeat all of a request but its tensors' bytes, which come last: what the bytes before them mean is remembered, so that
most requests are not parsed at all, and most answers are put together from pieces that are known.
Sources: Open Inference Protocol, gRPC; Protocol Buffers, encoding.
"""

from __future__ import annotations

from typing import NamedTuple

from serving.codecs.base import Buffer, Decode, Encode
from serving.codecs.plan import InputPlan
from serving.contract import ModelSpec


class Places(NamedTuple):
    """What the fields of a request's bytes are: the model, and where the raw contents lie.

    `start`: how many of the first bytes come before the first raw contents; `repeats`: another request of the same length that
    begins with the same bytes, to that place, differs in its raw contents alone.
    """

    model_name: str
    model_version: str
    raw: tuple[slice, ...]
    start: int
    repeats: bool


def scan(body: Buffer) -> Places:
    """Finds the top-level fields of a request. Raises `MalformedBody`."""
    raise NotImplementedError


def decoder(plan: InputPlan) -> Decode:
    """Decoder of requests to one model; raises `MalformedBody`, `InvalidInput` and `Unsupported`."""
    raise NotImplementedError


def encoder(spec: ModelSpec, model_name: str, version: str) -> Encode:
    """Encoder of answers: no header lines, and the message, whose tensors are raw contents."""
    raise NotImplementedError
