"""A loaded model: its container, its batcher, and the thin loop that carries out what the batcher decides."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter, process_time
from typing import Any, NamedTuple, cast

import msgspec

from serving.codecs.base import Encoded
from serving.contract import Array, Container, ModelConfig, ModelSpec, StreamingContainer
from serving.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    ModelFailure,
    Overloaded,
    ServingError,
    Unloaded,
)
from serving.runtime.assembly import Assembler
from serving.runtime.batcher import DONE, QUEUED, RUNNING, Batch, Batcher, BatchPolicy
from serving.runtime.costs import Costs
from serving.runtime.invocation import Invocation
from serving.runtime.oversize import Oversize
from serving.runtime.slots import Slots
from serving.runtime.statistics import ModelStatistics
from serving.runtime.streaming import Streams
from serving.runtime.turns import apart
from serving.telemetry.accumulators import Sample
from serving.telemetry.endpoint_logs import EndpointLogger

log = logging.getLogger("serving.model")

DEFAULT_MAX_ROWS = 64
"""Largest batch of a model whose settings name none: past this, rows/s hardly grow and everybody waits longer."""

BULK_BYTES = 256 * 1024
"""Bodies above this are decoded and encoded on a thread, so that the loop never stands still for them."""

HISTORY = 256
"""Batches of a model that can be read about."""

_yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: None)

_INLINE_KEEP = 1.5
_INLINE_PROBE = 4.0
_PROBE_EVERY = 64
_LEARN_EVERY = 4
_PIECE_S = 1e-3


class BatchRecord(msgspec.Struct, frozen=True):
    """Why and how one batch ran: what `GET /debug/models/{name}/batches` shows. Times in microseconds."""

    version: str
    reason: str
    mode: str
    requests: int
    rows: int
    padding_rows: int
    queue_us: float
    compute_us: float
    ended_s_ago: float


class Outcome(NamedTuple):
    """How one run ended: its batch, and the outputs or the error."""

    batch: Batch[Invocation]
    outputs: Sequence[Array]
    error: ServingError | None


class Pulse:
    """What the models of one loop know of each other: how many have work, and whose gap spins."""

    __slots__ = ("busy", "spinning")

    def __init__(self) -> None:
        self.busy = 0
        self.spinning: Model | None = None


def batch_policy(spec: ModelSpec, config: ModelConfig) -> BatchPolicy:
    """The policy for a loaded model. Raises `ConfigurationError` where the settings cannot be honoured."""
    batching = config.batching
    max_rows = (batching.max_batch_size or DEFAULT_MAX_ROWS) if spec.batched else 1
    for size in (*batching.preferred_batch_sizes, *batching.pad_batch_to):
        if size > max_rows:
            raise ConfigurationError(
                f"model '{config.name}': batching names a size of {size} rows, over its max_batch_size of {max_rows}"
            )
    if batching.default_priority > batching.priority_levels:
        raise ConfigurationError(
            f"model '{config.name}': default_priority {batching.default_priority} is over priority_levels {batching.priority_levels}"
        )
    if not batching.merge_requests and (batching.preferred_batch_sizes or batching.max_queue_delay_us):
        raise ConfigurationError(
            f"model '{config.name}': preferred_batch_sizes and max_queue_delay_us are for requests that are merged; leave "
            "them out, or merge_requests"
        )
    return BatchPolicy(
        max_rows=max_rows,
        merge=batching.merge_requests,
        preferred_rows=tuple(sorted(batching.preferred_batch_sizes)),
        delay_s=batching.max_queue_delay_us * 1e-6,
        max_wait_s=batching.max_queue_wait_s,
        default_timeout_s=batching.default_timeout_s,
        levels=batching.priority_levels,
        slots=config.slots,
    )


def describe_batching(spec: ModelSpec, policy: BatchPolicy) -> str:
    """How a model's requests are merged, for a person."""
    if not spec.batched:
        return f"not batched: {spec.why_not_batched}"
    if policy.max_rows == 1 or not policy.merge:
        return "each request runs alone"
    return f"batches up to {policy.max_rows} rows"


class Model:
    """One version of a model in memory, with its queue and slots; everything but the runs happens on the loop."""

    def __init__(
        self, container: Container, config: ModelConfig, costs: Costs, pulse: Pulse, history: int = HISTORY
    ) -> None:
        self.name = config.name
        self.version = config.version
        self.log = EndpointLogger(log, config.name)
        """Where its failures go: the server's log and its endpoint's, few a second."""
        self.spec = container.spec
        self.config = config
        self.statistics = ModelStatistics(config.name, config.version)
        self._history: deque[tuple[float, str, str, int, int, int, float, float]] = deque(maxlen=history)
        self._container = container
        self._execute = container.execute
        self._assembler = Assembler(container.spec)
        self.batcher: Batcher[Invocation] = Batcher(batch_policy(container.spec, config), costs)
        self._costs = costs
        self._pulse = pulse
        self._pads = tuple(sorted(config.batching.pad_batch_to))
        self._inline_below_s = config.batching.inline_below_us * 1e-6
        self._was_inline = False
        self._since_probe = 0
        self._probe: Batch[Invocation] | None = None
        self._since_learn = 0
        self._slots: Slots | None = None
        self._bulk: ThreadPoolExecutor | None = None
        self._loop = asyncio.get_running_loop()
        self._ticking = False
        self._worked_s = 0.0
        """The processor time of all threads when the last answers of a slot's run were sent."""
        self._busy = False
        self._running: set[Batch[Invocation]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._closing: Callable[[], None] | None = None
        self._refusing = False
        self._ended = False
        self._freeing: asyncio.Task[None] | None = None
        self.served = 0
        """Requests that came back from it, well or not."""
        self.rested: Callable[[], None] = _nobody
        """Called each time it goes out of use."""
        self._held = 0
        self.streams: Streams | None = None
        if container.spec.streams:
            streaming = cast("StreamingContainer", container)
            self.streams = Streams(config.name, streaming, config.streaming, config.slots, self.hold, self.release)
        self.priority = config.batching.default_priority or (config.batching.priority_levels + 1) // 2

    # ------------------------------------------------------------------ what callers do

    def submit(self, item: Invocation) -> None:
        """Takes a request. Raises `Overloaded`, `Unloaded` or `InvalidInput`; otherwise its reply will be called."""
        if self._refusing:
            raise Unloaded(f"model '{self.name}' was unloaded")
        # As `take`, without a call more for each request.
        if item.rows > self.batcher.policy.max_rows:
            self.take(item)
        else:
            self.enqueue(item)

    def take(self, item: Invocation) -> None:
        """Takes a request that was let in before; raises as `submit` does, but for `Unloaded`."""
        if item.rows > self.batcher.policy.max_rows and item.rows > (piece := self._piece_rows()):
            Oversize(self, item, piece).start()
        else:
            self.enqueue(item)

    def enqueue(self, item: Invocation, admitted: bool = False) -> None:
        """Queues a request of at most a batch; `admitted`: it was let in before, and is not refused now."""
        if item.priority > self.batcher.policy.levels:
            raise InvalidInput(
                f"priority {item.priority} is over the {self.batcher.policy.levels} levels of model '{self.name}'"
            )
        now = perf_counter()
        if item.deadline <= now:
            self.statistics.expired += 1
            raise self._late(item)
        if self.batcher.expecting:
            self.batcher.excuse(process_time() - self._worked_s)
        wait = self.batcher.add(item, now, admitted)
        if wait:
            self.statistics.refused += 1
            raise Overloaded(
                f"model '{self.name}' has {self.batcher.queued} requests queued, a wait of about {wait:.2f} s; "
                f"{self._bound(item, wait)}",
                retry_after_s=wait,
            )
        if not self._ticking:
            self._ticking = True
            if not self._busy:
                self._busy = True
                self._pulse.busy += 1
            self._loop.call_soon(self._tick)

    def _piece_rows(self) -> int:
        """Rows of one run of a large request: about a millisecond's worth, or as many as the container asks for, and never
        over what the operator set.
        """
        rows = self.batcher.policy.max_rows
        if self.config.batching.max_batch_size is None:
            rows = max(rows, self.spec.piece_rows)
            if self._costs.row_s:
                rows = max(rows, int(_PIECE_S / self._costs.row_s))
        return rows

    def _bound(self, item: Invocation, wait: float) -> str:
        bound = self.batcher.policy.max_wait_s
        if wait > bound:
            return f"its bound is {bound:g} s"
        return f"the deadline of the request is {item.deadline - item.arrived:.3f} s"

    def cancel(self, item: Invocation) -> None:
        """The caller hung up: a queued request never runs, a running one is not answered."""
        if item.state == QUEUED:
            self.batcher.cancel(item)
            self.statistics.cancelled += 1
            item.columns = ()
        elif item.state == RUNNING:
            # Its rows stay in the batch, which may be under assembly on a slot thread; only its answer is dropped.
            item.state = DONE
            self.statistics.cancelled += 1

    def priority_of(self, asked: int) -> int:
        """The batcher's priority for a request's (0: the model's default)."""
        return asked or self.priority

    @property
    def in_use(self) -> bool:
        """Whether anything is queued, runs, or is decoded, encoded or streamed."""
        return self._busy or self._held > 0

    def retire(self) -> None:
        """Takes no more requests, which are told that it is `Unloaded`; what is under way is answered."""
        self._refusing = True

    def close(self, done: Callable[[], None] | None = None) -> None:
        """Ends the model once its queue and runs are empty, then calls `done`.

        What found its way here before (a body that is still decoded) is taken until then, unless it has retired.
        """
        self._closing = done or _nobody
        if not self.in_use:
            self._end()

    def samples(self) -> list[Sample]:
        """All metrics of the model, now."""
        return list(self.statistics.samples())

    def cached(self) -> dict[str, int] | None:
        """What is kept of its answers, and how that went; None where nothing is."""
        return None

    def records(self) -> list[BatchRecord]:
        """The last batches, newest first."""
        now = perf_counter()
        return [
            BatchRecord(
                version=self.version,
                reason=reason,
                mode=mode,
                requests=requests,
                rows=rows,
                padding_rows=padding,
                queue_us=round(queue * 1e6, 1),
                compute_us=round(seconds * 1e6, 1),
                ended_s_ago=round(now - ended, 6),
            )
            for ended, reason, mode, requests, rows, padding, queue, seconds in reversed(self._history)
        ]

    # ------------------------------------------------------------------ the loop around the batcher

    def _tick(self) -> None:
        self._ticking = False
        batcher = self.batcher
        pulse = self._pulse
        while True:
            now = perf_counter()
            if batcher.overdue(now):
                self._expire(now)
            # A gap spins only while nobody else on this loop has anything to do.
            patient = pulse.busy <= 1 and (pulse.spinning is None or pulse.spinning is self)
            batch = batcher.poll(now, patient)
            if batch is None:
                break
            self._start(batch, now)
        if batcher.in_gap:
            pulse.spinning = self
            self._ticking = True
            # Whoever brings the callers back may wait for this core: another process, or a transport's own thread.
            _yield_core()
            self._loop.call_soon(self._tick)
            return
        if pulse.spinning is self:
            pulse.spinning = None
        if batcher.queued or self._running:
            self._arm(now)
        elif self._busy and not self._ticking:
            self._busy = False
            pulse.busy -= 1
            if not self._held:
                self._rest()

    def _start(self, batch: Batch[Invocation], now: float) -> None:
        for size in self._pads:
            if size >= batch.rows:
                batch.run_rows = size
                break
        if self._goes_inline(batch):
            batch.inline = True
            self._finish(batch, self._run(batch))
            return
        if self._slots is None:
            self._slots = Slots(self.name, self.config.slots)
        batch.deadline = min(item.deadline for item in batch.items)
        self._running.add(batch)
        self._slots.put(partial(self._run_on_slot, batch))

    def _goes_inline(self, batch: Batch[Invocation]) -> bool:
        predicted = self._costs.predict(batch.run_rows)
        limit = self._inline_below_s
        if not predicted or not limit:
            return False
        inline = predicted < limit * (_INLINE_KEEP if self._was_inline else 1.0)
        if not inline and predicted < limit * _INLINE_PROBE:
            # Measured on a thread, a short run also holds the wait for the GIL: look again on the loop now and then.
            self._since_probe += 1
            if self._since_probe >= _PROBE_EVERY:
                self._since_probe = 0
                self._probe = batch
                inline = True
        self._was_inline = inline
        return inline

    def _run(self, batch: Batch[Invocation]) -> list[Outcome]:
        """Runs a batch; when it fails, its requests run again in halves until only the guilty ones have failed."""
        outcome = self._run_once(batch)
        if outcome.error is None:
            return [outcome]
        if len(batch.items) == 1:
            self._tell(batch, outcome.error)
            return [outcome]
        items = batch.items
        middle = len(items) // 2
        outcomes: list[Outcome] = []
        for half in (items[:middle], items[middle:]):
            rows = sum(item.rows for item in half)
            outcomes += self._run(Batch(half, rows, "isolated", batch.formed, batch.oldest))
        if all(half.error is None for half in outcomes):
            self._tell(batch, outcome.error, f", {len(items)} requests at once, which it answered apart")
        return outcomes

    def _tell(self, batch: Batch[Invocation], error: ServingError, how: str = "") -> None:
        """Logs a fault of the model's."""
        if error.http_status >= 500:
            what, extra = "model %s version %s%s: %s", {"variant": batch.items[0].route.variant}
            self.log.error(what, self.name, self.version, how, error.message, exc_info=error.__cause__, extra=extra)

    def _run_once(self, batch: Batch[Invocation]) -> Outcome:
        try:
            inputs = self._assembler.join(batch)
            started = perf_counter()
            outputs = self._execute(inputs)
            batch.seconds = perf_counter() - started
            self._assembler.check(outputs, batch.run_rows)
        except ServingError as error:
            return Outcome(batch, (), error)
        except BaseException as error:  # whatever it is, its callers get an answer and the slot goes on
            failure = ModelFailure(f"model '{self.name}' failed: {type(error).__name__}")
            failure.__cause__ = error
            return Outcome(batch, (), failure)
        return Outcome(batch, outputs, None)

    def _run_on_slot(self, batch: Batch[Invocation]) -> None:
        outcomes = self._run(batch)
        try:
            self._loop.call_soon_threadsafe(self._finish_on_loop, batch, outcomes)
        except RuntimeError:
            log.debug("the loop closed before a batch of %s ended", self.name)

    def _finish_on_loop(self, batch: Batch[Invocation], outcomes: list[Outcome]) -> None:
        self._running.discard(batch)
        self._finish(batch, outcomes)
        if not self._ticking:
            self._tick()

    def _finish(self, batch: Batch[Invocation], outcomes: list[Outcome]) -> None:
        ended = perf_counter()
        if batch.inline and batch.seconds:
            self._since_learn += 1
            if batch is self._probe:
                # What was measured on the thread says nothing against it.
                self._costs.learn(batch.run_rows, batch.seconds, believed=True)
            elif self._since_learn >= _LEARN_EVERY:
                self._since_learn = 0
                self._costs.learn(batch.run_rows, batch.seconds)
        if batch.inline:
            self._probe = None
        mode = "inline" if batch.inline else "thread"
        for outcome in outcomes:
            if outcome.error is None:
                self._answer(outcome.batch, outcome.outputs, ended)
            else:
                failed = outcome.batch
                self.statistics.failed(len(failed.items), failed.rows, failed.seconds, failed.formed - failed.oldest)
                for item in outcome.batch.items:
                    if item.state == RUNNING:
                        self._fail(item, outcome.error)
            self._record(outcome.batch, mode, ended)
        self.batcher.finished(batch, perf_counter())
        if not batch.inline:
            self._worked_s = process_time()

    def _fail(self, item: Invocation, error: ServingError) -> None:
        """Tells one caller of an error; nothing that goes wrong there may reach another caller."""
        item.state = DONE
        try:
            item.route.failed(item, error)
        except Exception:
            self.log.exception("an error of %s could not be sent", self.name, extra={"variant": item.route.variant})

    def _record(self, batch: Batch[Invocation], mode: str, ended: float) -> None:
        statistics = self.statistics
        requests = len(batch.items)
        rows = batch.rows
        seconds = batch.seconds
        waited = batch.formed - batch.oldest
        padding = batch.run_rows - rows
        self.served += requests
        statistics.compute.observe(seconds)
        size = statistics.sizes.get(rows) or statistics.size(rows)
        size[0] += 1
        size[1] += seconds
        statistics.requests += requests
        statistics.compute_s += requests * seconds
        statistics.queue_s += requests * waited
        statistics.ended = ended
        if padding:
            statistics.padding_rows += padding
        key = (batch.reason, mode)
        try:
            statistics.reasons[key] += 1
        except KeyError:
            statistics.reasons[key] = 1
        # Plain numbers: a kept batch would keep its callers' bodies and connections.
        self._history.append((ended, batch.reason, mode, requests, rows, padding, waited, seconds))

    def _answer(self, batch: Batch[Invocation], outputs: Sequence[Array], ended: float) -> None:
        """Encodes everybody's rows, then sends, then counts: sends in a burst find the network's code warm and its
        peer awake, and counting happens while the answers travel."""
        row_bytes = sum(output.nbytes for output in outputs) // batch.run_rows
        only = outputs[0] if len(outputs) == 1 else None
        batched = self._assembler.batched
        formed = batch.formed
        ready: list[tuple[Invocation, Encoded]] = []
        low = 0
        for item in batch.items:
            high = low + item.rows
            if item.state == RUNNING:
                item.state = DONE
                item.columns = ()
                if not batched:
                    mine: Sequence[Array] = outputs
                elif only is not None:
                    mine = (only[low:high],)
                else:
                    mine = [output[low:high] for output in outputs]
                if item.head.timing:
                    item.timings = (formed - item.enqueued, batch.rows, batch.seconds)
                try:
                    if row_bytes * item.rows > BULK_BYTES and type(item.route) is not Oversize:
                        self.encode_on_thread(item, mine, formed, ended)
                    elif (encoded := item.route.encoded(item, mine)) is not None:
                        ready.append((item, encoded))
                except Exception:
                    self.log.exception("an answer of %s was lost", self.name, extra={"variant": item.route.variant})
                    self._fail(item, InternalError())
            low = high
        for item, (fields, body) in ready:
            try:
                item.reply.answer(item, fields, body)
            except Exception:
                # Replies promise not to raise; were one to, the other callers of the batch get their answers.
                extra = {"variant": item.route.variant}
                self.log.exception("an answer of %s could not be sent", self.name, extra=extra)
        sent = perf_counter()
        for item, _ in ready:
            item.route.count(item, formed, ended, sent)

    # ------------------------------------------------------------------ bulk work off the loop

    def on_thread(self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        """Runs `work` on a thread and calls `then(result, error)` on the loop. Raises `Unloaded` once the model ended."""
        if self._ended:
            raise Unloaded(f"model '{self.name}' was unloaded")
        if self._bulk is None:
            self._bulk = ThreadPoolExecutor(2, thread_name_prefix=f"{self.name}-bulk")
        loop = self._loop
        self.hold()

        def run() -> None:
            try:
                result, error = work(), None
            except BaseException as failure:
                result, error = None, failure
            loop.call_soon_threadsafe(back, result, error)

        def back(result: Any, error: BaseException | None) -> None:
            try:
                then(result, error)
            finally:
                self.release()

        self._bulk.submit(run)

    def hold(self) -> None:
        """Something beside the batches needs the model until `release`."""
        self._held += 1

    def release(self) -> None:
        """It does not any more."""
        self._held -= 1
        if not self.in_use:
            self._rest()

    def encode_on_thread(self, item: Invocation, outputs: Sequence[Array], formed: float, ended: float) -> None:
        """Encodes and sends an answer that would hold the loop up."""
        encode = item.route.encode
        asked = item.asked

        def then(encoded: Any, error: BaseException | None) -> None:
            if error is None:
                item.reply.answer(item, encoded[0], encoded[1])
                item.route.count(item, formed, ended, perf_counter())
            elif isinstance(error, ServingError):
                item.route.failed(item, error)
            else:
                extra = {"variant": item.route.variant}
                self.log.error("an answer of %s could not be encoded", self.name, exc_info=error, extra=extra)
                item.route.failed(item, InternalError())

        self.on_thread(lambda: encode(outputs, asked), then)

    # ------------------------------------------------------------------ deadlines and the end

    def _arm(self, now: float) -> None:
        """Sets the timer to the next moment at which something is due: a queue delay or a deadline."""
        batcher = self.batcher
        due = min(
            (batch.deadline for batch in self._running),
            default=math.inf,
        )
        for moment in (batcher.wake_at, batcher.next_deadline()):
            if moment is not None and moment < due:
                due = moment
        if due is math.inf or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(due - now, 0.0), self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = perf_counter()
        self._expire(now)
        for batch in self._running:
            if batch.deadline <= now:
                waiting = [item for item in batch.items if item.state == RUNNING]
                for item in waiting:
                    if item.deadline <= now:
                        # Its rows stay in the batch, which may be under assembly on a slot thread.
                        self._fail(item, self._late(item))
                        self.statistics.expired += 1
                batch.deadline = min((item.deadline for item in waiting if item.state == RUNNING), default=math.inf)
        if not self._ticking:
            self._tick()

    def _expire(self, now: float) -> None:
        """Answers those whose deadline passed in the queue."""
        for item in self.batcher.expire(now):
            self.statistics.expired += 1
            item.columns = ()
            self._fail(item, self._late(item))

    def _late(self, item: Invocation) -> DeadlineExceeded:
        allowed = item.deadline - item.arrived
        return DeadlineExceeded(f"the deadline of {allowed:.3f} s passed before model '{self.name}' answered")

    def _rest(self) -> None:
        """Nothing is under way any more."""
        if self._closing is None:
            self.rested()
        else:
            self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = self._refusing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._slots is not None:
            self._slots.close()
        if self._bulk is not None:
            self._bulk.shutdown(wait=False)
        if self.streams is not None:
            self.streams.close()
        self._execute = _unloaded
        done, self._closing = self._closing, _nobody
        self._freeing = self._loop.create_task(self._free(done or _nobody))

    async def _free(self, done: Callable[[], None]) -> None:
        """Closes the container on a thread: that of a large model takes milliseconds, and more while others are loaded."""
        try:
            await apart(self._container.close, "close")
        except Exception:
            self.log.exception("model %s could not be closed", self.name)
        done()


def _nobody() -> None:
    """Nobody wants to know."""


def _unloaded(inputs: Sequence[Array]) -> Sequence[Array]:
    """Stands in for a container that is closed, which it would keep in memory."""
    raise Unloaded(Unloaded.__doc__ or "")
