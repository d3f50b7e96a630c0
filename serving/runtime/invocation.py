"""One request on its way through the runtime, and where its answer goes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from serving.codecs.base import Asked, Column, Encode, Encoded
from serving.contract import Array
from serving.errors import ServingError

if TYPE_CHECKING:
    from serving.runtime.model import Model
    from serving.runtime.routing import Route


class Face(Enum):
    """The contract that a request came by; it decides how errors look."""

    CONTAINER = "container"
    RUNTIME = "runtime"
    OPEN_INFERENCE = "open-inference"


class Head:
    """What a request says before its body, in the words of every face.

    `name` is the endpoint or model, None for the container contract. `coding` is the content coding that its caller
    takes for a large answer. `length` is the body's bytes. `streamed`: the answer may come in parts. `generate`: the body
    is that of Triton's generate extension; `grpc`: body and answer are messages of its gRPC service. A head may be kept
    and used for each later request that repeats it to the byte, so `route` remembers the last routing of it.
    """

    __slots__ = (
        "accept",
        "attributes",
        "coding",
        "content_type",
        "face",
        "generate",
        "grpc",
        "inference_id",
        "json_length",
        "keep_alive",
        "length",
        "name",
        "priority",
        "route",
        "streamed",
        "target_container",
        "target_model",
        "target_variant",
        "timeout_s",
        "timing",
        "version",
    )

    def __init__(self, face: Face, name: str | None = None) -> None:
        self.face = face
        self.name = name
        self.version: str | None = None
        self.content_type: str | None = None
        self.accept: str | None = None
        self.coding: str | None = None
        self.json_length: int | None = None
        self.timeout_s: float | None = None
        self.priority = 0
        self.timing = False
        self.attributes: str | None = None
        self.inference_id: str | None = None
        self.target_model: str | None = None
        self.target_variant: str | None = None
        self.target_container: str | None = None
        self.length = 0
        self.keep_alive = True
        self.streamed = False
        self.generate = False
        self.grpc = False
        self.route: Route | None = None

    def timed(self, timeout_s: float) -> Head:
        """The same with a time of its own, which is none of what a route depends on."""
        # Line by line: a loop over the slots takes five times as long.
        head = object.__new__(Head)
        head.accept = self.accept
        head.attributes = self.attributes
        head.coding = self.coding
        head.content_type = self.content_type
        head.face = self.face
        head.generate = self.generate
        head.grpc = self.grpc
        head.inference_id = self.inference_id
        head.json_length = self.json_length
        head.keep_alive = self.keep_alive
        head.length = self.length
        head.name = self.name
        head.priority = self.priority
        head.route = self.route
        head.streamed = self.streamed
        head.target_container = self.target_container
        head.target_model = self.target_model
        head.target_variant = self.target_variant
        head.timing = self.timing
        head.version = self.version
        head.timeout_s = timeout_s
        return head


class Reply(Protocol):
    """Where an answer goes: a connection of the hot lane, or a future. Neither method may raise."""

    invocation: Invocation | None
    """The queued request, so that whoever notices that the caller hung up can cancel it."""

    closed: bool
    """The caller hung up."""

    def answer(self, invocation: Invocation, fields: bytes, body: bytes) -> None:
        """The answer: header lines, each ended by CRLF, and the body."""

    def fail(self, head: Head, error: ServingError) -> None:
        """The request failed."""


class Destination(Protocol):
    """What an invocation comes back to once it was run: a route, or what collects the pieces of a large request.

    Times are seconds of `time.perf_counter`: when its batch began, when it ended, when its answers were sent.
    """

    model: Model
    variant: str

    @property
    def encode(self) -> Encode:
        """How its answer is written."""

    def encoded(self, item: Invocation, outputs: Sequence[Array]) -> Encoded | None:
        """Its rows of the outputs, encoded; None where nothing is to be sent (now)."""

    def count(self, item: Invocation, formed: float, ended: float, sent: float) -> None:
        """Its answer was sent."""

    def failed(self, item: Invocation, error: ServingError) -> None:
        """It failed."""


class Invocation:
    """A decoded request: its rows, its caller, its times (seconds of `time.perf_counter`)."""

    __slots__ = (
        "arrived",
        "asked",
        "columns",
        "deadline",
        "enqueued",
        "head",
        "priority",
        "reply",
        "route",
        "rows",
        "signature",
        "state",
        "timings",
    )

    def __init__(
        self,
        head: Head,
        reply: Reply,
        route: Destination,
        rows: int,
        columns: tuple[Column, ...],
        signature: Hashable,
        asked: Asked | None,
        arrived: float,
        deadline: float,
        priority: int,
    ) -> None:
        self.head = head
        self.reply = reply
        self.route = route
        self.rows = rows
        self.columns = columns
        self.signature = signature
        self.asked = asked
        self.arrived = arrived
        self.deadline = deadline
        self.priority = priority
        self.enqueued = arrived
        self.state = 0
        self.timings: tuple[float, int, float] | None = None
        """Queue seconds, batch rows and compute seconds, where the caller asked for them."""
