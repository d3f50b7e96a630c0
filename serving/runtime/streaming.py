"""Answers in parts: a container's generator run in short turns on slot threads, never further ahead than its caller reads.

A turn runs a generator until it has made a part and its time or its bytes are used up; then the slot goes to the next
stream. So a slot serves any number of streams, and a stream whose caller does not read holds no thread. The loop is told
of the first part in a turn, and takes what has been made by the time that it comes: parts wait for nothing, and those of
a fast container travel together. The very first turn is one part long, so that the loop has the interpreter for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from enum import Enum
from functools import partial
from time import perf_counter
from typing import Final

from serving.codecs.base import Decoded, Encoded
from serving.contract import Array, StreamingConfig, StreamingContainer
from serving.errors import DeadlineExceeded, InternalError, ModelFailure, NotReady, Overloaded, ServingError
from serving.runtime.assembly import Assembler
from serving.runtime.slots import Slots, Work
from serving.runtime.statistics import VariantStatistics
from serving.telemetry.endpoint_logs import EndpointLogger

log = logging.getLogger("serving.streaming")

TURN_S: Final = 0.5e-3
"""Longest turn of fast parts: a slot thread that computes in Python keeps the loop waiting as long."""

TURN_BYTES: Final = 32 * 1024
TURN_PARTS: Final = 64

EncodePart = Callable[[Sequence[Array]], Encoded]
"""A part's outputs to header lines and body; runs on a slot thread."""


class State(Enum):
    """Where a stream's generator is: not in a turn, in one (or queued for it), or gone."""

    RESTING = "resting"
    IN_TURN = "in turn"
    CLOSING = "closing"


class Streams:
    """The open streams of one model, which take turns on threads of their own. `opened` and `closed` are called on the
    loop for each of them."""

    def __init__(
        self,
        name: str,
        container: StreamingContainer,
        config: StreamingConfig,
        slots: int,
        opened: Callable[[], None],
        closed: Callable[[], None],
    ) -> None:
        self.name = name
        self.log = EndpointLogger(log, name)
        self.config = config
        self.open: set[PartStream] = set()
        self._container = container
        self._assembler = Assembler(container.spec)
        self._outputs = len(container.spec.outputs)
        self._count = slots
        self._slots: Slots | None = None
        self._opened = opened
        self._closed = closed
        self._ended = False

    def start(
        self,
        decoded: Decoded,
        encode: EncodePart,
        statistics: VariantStatistics,
        arrived: float,
        timeout_s: float,
    ) -> PartStream:
        """Opens a stream and begins its first part, which must come within `timeout_s` of `arrived`.

        Raises `Overloaded` or `NotReady`.
        """
        if self._ended:
            raise NotReady(f"model '{self.name}' is being unloaded")
        if len(self.open) >= self.config.max_streams:
            raise Overloaded(
                f"model '{self.name}' has {len(self.open)} streams open, as many as its streaming.max_streams allows",
                retry_after_s=1,
            )
        rows, columns, signature, _ = decoded
        generator = self._generate(self._assembler.alone(rows, columns, signature))
        stream = PartStream(self, generator, encode, statistics, arrived, timeout_s)
        statistics.streams.open += 1
        self.open.add(stream)
        self._opened()
        stream.advance()
        return stream

    def put(self, work: Work) -> None:
        """Runs a turn on a free thread."""
        if self._slots is None:
            self._slots = Slots(f"{self.name}-stream", self._count)
        self._slots.put(work)

    def ended(self, stream: PartStream) -> None:
        """A stream's generator is gone."""
        self.open.discard(stream)
        self._closed()

    def close(self) -> None:
        """Ends the threads; no stream is open any more."""
        self._ended = True
        if self._slots is not None:
            self._slots.close()

    def _generate(self, inputs: Sequence[Array]) -> Generator[Sequence[Array], None, None]:
        """The container's parts, checked; nothing of it runs before the first turn."""
        with closing(self._container.stream(inputs)) as parts:
            for outputs in parts:
                if len(outputs) != self._outputs:
                    raise ModelFailure(
                        f"model '{self.name}' gave a part with {len(outputs)} outputs; {self._outputs} were expected"
                    )
                yield outputs


class PartStream:
    """One caller's stream. Its methods are called on the loop; only its turns run on slot threads, one at a time.

    `fields` are the header lines of the first part, once there is one. A turn only begins when everything made was taken.
    """

    def __init__(
        self,
        streams: Streams,
        generator: Generator[Sequence[Array], None, None],
        encode: EncodePart,
        statistics: VariantStatistics,
        arrived: float,
        timeout_s: float,
    ) -> None:
        self.fields = b""
        self.name = streams.name
        self.variant = statistics.variant
        self._streams = streams
        self._generator = generator
        self._encode = encode
        self._statistics = statistics
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._state = State.RESTING
        self._made: deque[bytes] = deque()  # parts that the caller has not taken, added to by the thread
        self._told = False  # the thread has said so, and the loop has not looked yet
        self._error: ServingError | None = None
        self._done = False
        self._began = False  # the first part was made
        self._waiter: asyncio.Future[None] | None = None
        self._timer = self._loop.call_later(arrived + timeout_s - perf_counter(), self._expire, timeout_s)

    async def next(self) -> list[bytes] | None:
        """The parts made since the last call, at least one; None when there are no more. Raises the `ServingError` that
        ended the stream once the parts before it were taken."""
        made = self._made
        while not made:
            if self._error is not None:
                raise self._error
            if self._done:
                return None
            self.advance()
            self._waiter = self._loop.create_future()
            await self._waiter
        # The thread may be adding: taken one by one, none is lost.
        parts = [made.popleft() for _ in range(len(made))]
        self._statistics.streams.parts += len(parts)
        self.advance()
        return parts

    def leave(self) -> None:
        """The caller is gone, or has all: the generator is closed where it stands, at the latest after its next part."""
        if not self._done:
            self._statistics.streams.aborted += 1
        self._stop(None)
        self._made.clear()
        self._wake()

    def advance(self) -> None:
        """Begins a turn unless one is under way, nothing is to come, or the caller has not taken what there is."""
        if self._state is State.RESTING and not self._done and not self._made:
            self._state = State.IN_TURN
            self._streams.put(self._turn)

    # ------------------------------------------------------------------ on a slot thread

    def _turn(self) -> None:
        """Makes parts and adds them to `_made`; the loop is told when the turn ends, or once it can have a part before."""
        count = size = 0
        ended = False
        error: ServingError | None = None
        most = TURN_PARTS if self._began else 1
        until = perf_counter() + TURN_S
        try:
            while not self._done:
                fields, body = self._encode(next(self._generator))
                if not self._began:
                    self.fields = fields
                self._made.append(body)
                count += 1
                size += len(body)
                if count >= most or size >= TURN_BYTES or perf_counter() >= until:
                    break
                if not self._told:
                    self._told = True
                    self._tell(self._look)
        except StopIteration:
            ended = True
        except ServingError as failure:
            error = failure
        except BaseException as failure:  # whatever it is, the caller gets an answer and the slot goes on
            error = ModelFailure(f"model '{self._streams.name}' failed: {type(failure).__name__}")
            error.__cause__ = failure
        if error is not None and error.http_status >= 500 and not isinstance(error, InternalError):
            # What is the server's own fault was logged where it was met.
            what, extra = "a stream of model %s: %s", {"variant": self.variant}
            self._streams.log.error(what, self.name, error.message, exc_info=error.__cause__, extra=extra)
        self._tell(partial(self._turned, perf_counter(), ended, error))

    def _close(self) -> None:
        try:
            self._generator.close()
        except BaseException:
            extra = {"variant": self.variant}
            self._streams.log.exception("a stream of model %s failed while it was closed", self.name, extra=extra)
        self._tell(self._gone)

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            log.debug("the loop closed before a stream of %s ended", self._streams.name)

    # ------------------------------------------------------------------ back on the loop

    def _look(self) -> None:
        """There are parts, and the turn goes on."""
        self._told = False
        self._wake()

    def _turned(self, now: float, ended: bool, error: ServingError | None) -> None:
        self._state = State.RESTING
        if self._done:
            self._shut()
            return
        if self._made and not self._began:
            self._begin(now)
        elif ended and not self._began:
            self._statistics.invocations += 1  # an answer without parts is one, too
        if ended or error is not None:
            self._stop(error)
        self._wake()
        self.advance()

    def _begin(self, made: float) -> None:
        """The first part is there: from now on the stream has the time of a whole one."""
        self._began = True
        elapsed = made - self._arrived
        self._statistics.invocations += 1
        self._statistics.streams.first_part.observe(elapsed)
        self._timer.cancel()
        timeout_s = self._streams.config.timeout_s
        self._timer = self._loop.call_later(timeout_s - elapsed, self._expire, timeout_s)

    def _expire(self, timeout_s: float) -> None:
        what = "ended its stream" if self._began else "gave its first part"
        self._stop(
            DeadlineExceeded(f"the deadline of {timeout_s:.3f} s passed before model '{self._streams.name}' {what}")
        )
        self._wake()

    def _stop(self, error: ServingError | None) -> None:
        """No more parts are wanted, or to be had; the thread looks at `_done` between two parts."""
        if self._done:
            return
        self._done = True
        self._error = error
        self._timer.cancel()
        now = perf_counter()
        if error is not None and not self._began:
            self._statistics.failed(error)
            self._statistics.failed_s += now - self._arrived
        else:
            streams = self._statistics.streams
            if error is not None:
                streams.broken += 1
                streams.broken_s += now - self._arrived
            streams.ended = now
            streams.seconds.observe(now - self._arrived)
        self._shut()

    def _shut(self) -> None:
        """Closes the generator once it is in no turn: on a thread, because its own code runs."""
        if self._state is State.RESTING:
            self._state = State.CLOSING
            self._streams.put(self._close)

    def _gone(self) -> None:
        self._statistics.streams.open -= 1
        self._streams.ended(self)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
