"""What workers say to each other: requests that one forwards to another, and their answers."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

from serving.processes.frames import More, Sized
from serving.runtime.invocation import Face, Head


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First, from the worker that asks: who it is, and that it knows the secret."""

    worker: int
    secret: bytes


class Invoke(Sized, frozen=True, array_like=True, tag=2):
    """A request; its head as `pack` writes it, and its body.

    `arrived`: when it came, in seconds of `time.perf_counter`, which all processes of a machine read from one clock
    (CLOCK_MONOTONIC), so that its deadline passes at the same moment wherever it is.
    """

    head: bytes
    arrived: float


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The caller hung up."""

    call: int


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Whether the other worker is still there, though it has not answered for long."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """From the worker that answers: it takes requests."""


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """It is there."""


class Answer(Sized, frozen=True, array_like=True, tag=7):
    """The answer to an `Invoke`: header lines, and the body; `timings` as in `Invocation`."""

    fields: bytes
    variant: str
    timings: tuple[float, int, float] | None


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The request failed; the error as `serving.processes.faults` tells it."""

    call: int
    error: str
    message: str
    retry_after_s: float | None


class Unserved(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The request is for an endpoint that the worker does not serve, yet or any more: its wiring is another version."""

    call: int


class Leaving(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The worker takes no more requests, but answers what it has."""


ToAnswerer: TypeAlias = Hello | Invoke | More | Cancel | Ping
ToAsker: TypeAlias = Welcome | Pong | Answer | More | Failure | Unserved | Leaving

_SLOTS: Final = tuple(slot for slot in Head.__slots__ if slot != "route")
_FACE: Final = _SLOTS.index("face")
_read: Final = attrgetter(*_SLOTS)
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[Any]).decode


def pack(head: Head) -> bytes:
    """A head as bytes, the same for each that says the same; its route is not part of it."""
    return _encode(_read(head))


def unpack(packed: bytes) -> Head:
    """The head that `pack` wrote."""
    values = _decode(packed)
    head = Head(Face(values[_FACE]))
    for slot, value in zip(_SLOTS, values, strict=True):
        if slot != "face":
            setattr(head, slot, value)
    return head
