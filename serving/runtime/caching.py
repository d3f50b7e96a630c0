"""Models that keep their answers: a request whose input was answered before gets that answer, and runs nothing.

The cache lies between decoding and encoding, so every codec and face shares it. Callers who ask for the same thing at
the same moment are not made to wait for each other: each is run, mostly in the same batch. Otherwise one caller's
deadline, priority or hanging up would decide another's answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

from serving.codecs.base import Asked, Encoded
from serving.contract import Array, Container, ModelConfig
from serving.errors import InternalError, ServingError, Unloaded
from serving.runtime.batcher import DONE
from serving.runtime.costs import Costs
from serving.runtime.invocation import Destination, Invocation
from serving.runtime.model import BULK_BYTES, HISTORY, Model, Pulse
from serving.runtime.response_cache import Key, Partition, ResponseCache, compact, key_of
from serving.telemetry.accumulators import Sample


def make_model(
    cache: ResponseCache,
    container: Container,
    config: ModelConfig,
    costs: Costs,
    pulse: Pulse,
    history: int = HISTORY,
) -> Model:
    """The model, keeping its answers where its settings say so, and the last `history` batches."""
    if config.response_cache:
        return CachingModel(cache.partition(config.name, config.version), container, config, costs, pulse, history)
    return Model(container, config, costs, pulse, history)


class CachingModel(Model):
    """A model that looks for the answer before it queues a request."""

    def __init__(
        self,
        partition: Partition,
        container: Container,
        config: ModelConfig,
        costs: Costs,
        pulse: Pulse,
        history: int = HISTORY,
    ) -> None:
        super().__init__(container, config, costs, pulse, history)
        self._partition = partition

    def submit(self, item: Invocation) -> None:
        """Takes a request; see `Model.submit`. Its reply may be called before this returns."""
        if self._refusing:
            raise Unloaded(f"model '{self.name}' was unloaded")
        if max(item.head.length, sum(map(len, item.columns))) > BULK_BYTES:
            find = partial(key_of, item.rows, item.signature, item.columns)
            self.on_thread(find, partial(self._found, item))
        else:
            self._serve(item, key_of(item.rows, item.signature, item.columns))

    def cached(self) -> dict[str, int]:
        """What is kept of the model's answers, and how that went."""
        counts = self._partition.counts
        return {
            "entries": len(self._partition),
            "bytes": self._partition.bytes,
            "hits": counts.hits,
            "misses": counts.misses,
            "evictions": counts.evictions,
            "too_large": counts.too_large,
        }

    def samples(self) -> list[Sample]:
        """All metrics of the model, now."""
        labels = (("model", self.name), ("version", self.version))
        return [
            *super().samples(),
            *(
                Sample(f"serving_cache_{name}", "gauge" if name in ("entries", "bytes") else "counter", labels, value)
                for name, value in self.cached().items()
            ),
        ]

    def _found(self, item: Invocation, key: Any, error: BaseException | None) -> None:
        """Goes on with a large request once its key was found on a thread."""
        if item.reply.closed:
            return
        try:
            if error is not None:
                raise error
            self._serve(item, key)
        except ServingError as refusal:
            item.route.failed(item, refusal)
        except Exception:
            extra = {"variant": item.route.variant}
            self.log.exception("a request to %s could not be taken", self.name, extra=extra)
            item.route.failed(item, InternalError())

    def _serve(self, item: Invocation, key: Key) -> None:
        now = perf_counter()
        # What would be refused is refused by its queue, whether or not the answer is known.
        outputs = None
        if item.deadline > now and item.priority <= self.batcher.policy.levels:
            outputs = self._partition.get(key)
        if outputs is None:
            item.route = _Keeping(item.route, key, self._partition)
            self.take(item)
            return
        item.enqueued = now
        item.state = DONE
        item.columns = ()
        self.served += 1
        if not self.in_use:
            self.rested()
        if item.head.timing:
            # No batch ran for it.
            item.timings = (0.0, 0, 0.0)
        if sum(output.nbytes for output in outputs) > BULK_BYTES:
            self.encode_on_thread(item, outputs, now, now)
        elif (encoded := item.route.encoded(item, outputs)) is not None:
            item.reply.answer(item, *encoded)
            item.route.count(item, now, now, perf_counter())

    def _end(self) -> None:
        self._partition.close()
        super()._end()


class _Keeping:
    """Stands in as the route of a request whose outputs are kept once its answer was sent."""

    __slots__ = ("_key", "_outputs", "_partition", "_route", "model", "variant")

    def __init__(self, route: Destination, key: Key, partition: Partition) -> None:
        self.model = route.model
        self.variant = route.variant
        self._route = route
        self._key = key
        self._partition = partition
        self._outputs: Sequence[Array] = ()

    def encode(self, outputs: Sequence[Array], asked: Asked | None) -> Encoded:
        """On a thread, for a large answer, which is copied there as well."""
        self._outputs = compact(outputs)
        return self._route.encode(self._outputs, asked)

    def encoded(self, item: Invocation, outputs: Sequence[Array]) -> Encoded | None:
        """Its rows of the outputs, encoded."""
        self._outputs = outputs
        return self._route.encoded(item, outputs)

    def count(self, item: Invocation, formed: float, ended: float, sent: float) -> None:
        """Its answer was sent: time to keep it, and to let the batch go."""
        self._route.count(item, formed, ended, sent)
        outputs, self._outputs = self._outputs, ()
        try:
            self._partition.put(self._key, outputs)
        except Exception:
            extra = {"variant": self.variant}
            self.model.log.exception("an answer of %s could not be kept", self.model.name, extra=extra)

    def failed(self, item: Invocation, error: ServingError) -> None:
        """It failed, which is not kept."""
        self._outputs = ()
        self._route.failed(item, error)
