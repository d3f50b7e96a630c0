"""What one variant of one endpoint counts: SageMaker's metrics and the batcher's, as plain accumulators.

Source of the names: Amazon SageMaker Developer Guide, "Monitor SageMaker with Amazon CloudWatch".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, TypeAlias

from serving.errors import ContainerFault, ServingError
from serving.telemetry.accumulators import ROW_BOUNDS, Histogram, HistogramValue, Sample, freeze

Labels: TypeAlias = tuple[tuple[str, str], ...]

STREAM_BOUNDS_S: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 240.0, 480.0, 3600.0)
"""Upper bounds of how long streams take, in seconds."""

MOST_SIZES: Final = 4096
"""Rows of the largest batch that is counted under its own size; larger ones are under the next power of two."""


class VariantStatistics:
    """The accumulators of one production variant; times in seconds.

    `refusal`: from the last byte of a request read to its error written, for requests that never got to the queue.
    `failed_s`: the same of those that failed later, added up.
    """

    __slots__ = (
        "endpoint",
        "errors_4xx",
        "errors_5xx",
        "failed_s",
        "invocations",
        "latency",
        "model_errors",
        "model_latency",
        "overhead_latency",
        "queue",
        "refusal",
        "streams",
        "variant",
    )

    def __init__(self, endpoint: str, variant: str) -> None:
        self.endpoint = endpoint
        self.variant = variant
        self.invocations = 0
        self.errors_4xx = 0
        self.errors_5xx = 0
        self.model_errors = 0
        self.failed_s = 0.0
        self.latency = Histogram()
        self.model_latency = Histogram()
        self.overhead_latency = Histogram()
        self.queue = Histogram()
        self.refusal = Histogram()
        self.streams = StreamStatistics()

    def failed(self, error: ServingError) -> None:
        """Counts an invocation that ended in an error."""
        self.invocations += 1
        if error.http_status >= 500:
            self.errors_5xx += 1
        elif error.http_status >= 400:
            self.errors_4xx += 1
        if isinstance(error, ContainerFault):
            self.model_errors += 1

    def add(self, other: VariantStatistics) -> None:
        """Counts what others counted."""
        self.invocations += other.invocations
        self.errors_4xx += other.errors_4xx
        self.errors_5xx += other.errors_5xx
        self.model_errors += other.model_errors
        self.failed_s += other.failed_s
        self.latency.add(other.latency)
        self.model_latency.add(other.model_latency)
        self.overhead_latency.add(other.overhead_latency)
        self.queue.add(other.queue)
        self.refusal.add(other.refusal)
        self.streams.add(other.streams)

    def samples(self) -> Iterator[Sample]:
        """All metrics of the variant, now."""
        labels = (("endpoint_name", self.endpoint), ("variant_name", self.variant))
        yield Sample("sagemaker_invocations", "counter", labels, self.invocations)
        yield Sample("sagemaker_invocation_4xx_errors", "counter", labels, self.errors_4xx)
        yield Sample("sagemaker_invocation_5xx_errors", "counter", labels, self.errors_5xx)
        yield Sample("sagemaker_invocation_model_errors", "counter", labels, self.model_errors)
        yield Sample("sagemaker_model_latency_seconds", "histogram", labels, freeze(self.model_latency))
        yield Sample("sagemaker_overhead_latency_seconds", "histogram", labels, freeze(self.overhead_latency))
        yield Sample("serving_request_seconds", "histogram", labels, freeze(self.latency))
        yield Sample("serving_phase_seconds", "histogram", (*labels, ("phase", "queue")), freeze(self.queue))
        yield Sample("serving_refusal_seconds", "histogram", labels, freeze(self.refusal))
        yield from self.streams.samples(labels)


class StreamStatistics:
    """The accumulators of one variant's answers in parts; times in seconds since the request's last byte.

    `broken_s` are those of broken streams, added up; `ended` is when the last stream did (seconds of `time.perf_counter`).
    """

    __slots__ = ("aborted", "broken", "broken_s", "ended", "first_part", "open", "parts", "seconds")

    def __init__(self) -> None:
        self.open = 0
        self.parts = 0
        self.aborted = 0
        self.broken = 0
        self.broken_s = 0.0
        self.ended = 0.0
        self.first_part = Histogram()
        self.seconds = Histogram(STREAM_BOUNDS_S)

    def add(self, other: StreamStatistics) -> None:
        """Counts what others counted, but for what is open."""
        self.parts += other.parts
        self.aborted += other.aborted
        self.broken += other.broken
        self.broken_s += other.broken_s
        self.ended = max(self.ended, other.ended)
        self.first_part.add(other.first_part)
        self.seconds.add(other.seconds)

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """All metrics of the streams, now."""
        yield Sample("sagemaker_mid_stream_errors", "counter", labels, self.broken)
        yield Sample("sagemaker_first_chunk_latency_seconds", "histogram", labels, freeze(self.first_part))
        yield Sample("serving_stream_seconds", "histogram", labels, freeze(self.seconds))
        yield Sample("serving_stream_parts", "counter", labels, self.parts)
        yield Sample("serving_streams_aborted", "counter", labels, self.aborted)
        yield Sample("serving_streams_open", "gauge", labels, self.open)


class ModelStatistics:
    """The accumulators of one version of a model's batches; times in seconds.

    `sizes` has, by the rows of a batch, how many there were and the seconds that the model ran for them. `requests` are those
    of all batches, and `compute_s` and `queue_s` the seconds that the model ran for each of them and that its batch's first one
    waited; `pieces` are those that were a part of a request and not its last. `failed_requests`, `failed_rows`,
    `failed_compute_s` and `failed_queue_s` are the same of batches that failed. `ended` is when the last batch did (seconds of
    `time.perf_counter`).
    """

    __slots__ = (
        "_beyond_rows",
        "cancelled",
        "compute",
        "compute_s",
        "ended",
        "expired",
        "failed_compute_s",
        "failed_queue_s",
        "failed_requests",
        "failed_rows",
        "failed_sizes",
        "model",
        "padding_rows",
        "pieces",
        "queue_s",
        "reasons",
        "refused",
        "requests",
        "sizes",
        "version",
    )

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.compute = Histogram()
        self.sizes: dict[int, list[float]] = {}
        self._beyond_rows = 0
        self.reasons: dict[tuple[str, str], int] = {}
        self.requests = 0
        self.pieces = 0
        self.compute_s = 0.0
        self.queue_s = 0.0
        self.failed_requests = 0
        self.failed_rows = 0
        self.failed_compute_s = 0.0
        self.failed_queue_s = 0.0
        self.failed_sizes: dict[int, list[float]] = {}
        self.ended = 0.0
        self.padding_rows = 0
        self.refused = 0
        self.expired = 0
        self.cancelled = 0

    def size(self, rows: int) -> list[float]:
        """The entry of `sizes` for a batch of a size that has none yet, or of one that never has."""
        size = _size(rows)
        self._beyond_rows += rows - size
        return self.sizes.setdefault(size, [0, 0.0])

    def failed(self, requests: int, rows: int, seconds: float, waited: float) -> None:
        """Counts a batch as failed, beside what is counted of all."""
        self.failed_requests += requests
        self.failed_rows += rows
        self.failed_compute_s += requests * seconds
        self.failed_queue_s += requests * waited
        size = self.failed_sizes.setdefault(_size(rows), [0, 0.0])
        size[0] += 1
        size[1] += seconds

    def succeeded(self) -> list[tuple[int, int, float]]:
        """Of the batches that did not fail, by their rows, how many there were and the seconds that the model ran."""
        found = []
        for rows, (count, seconds) in sorted(self.sizes.items()):
            failed, failed_s = self.failed_sizes.get(rows, (0, 0.0))
            if count > failed:
                found.append((rows, int(count - failed), seconds - failed_s))
        return found

    @property
    def batches(self) -> int:
        """How many there were."""
        return int(sum(count for count, _ in self.sizes.values()))

    @property
    def rows(self) -> int:
        """Rows of all batches."""
        return int(sum(rows * count for rows, (count, _) in self.sizes.items())) + self._beyond_rows

    def samples(self) -> Iterator[Sample]:
        """All metrics of the model, now."""
        labels = (("model", self.model), ("version", self.version))
        yield Sample("serving_batch_compute_seconds", "histogram", labels, freeze(self.compute))
        yield Sample("serving_batch_rows", "histogram", labels, self._row_histogram())
        for (reason, mode), count in self.reasons.items():
            yield Sample("serving_batches", "counter", (*labels, ("reason", reason), ("mode", mode)), count)
        yield Sample("serving_batch_padding_rows", "counter", labels, self.padding_rows)
        yield Sample("serving_queue_refused", "counter", labels, self.refused)
        yield Sample("serving_queue_expired", "counter", labels, self.expired)
        yield Sample("serving_queue_cancelled", "counter", labels, self.cancelled)

    def _row_histogram(self) -> HistogramValue:
        counts = [0] * (len(ROW_BOUNDS) + 1)
        for rows, (count, _) in self.sizes.items():
            counts[bisect_left(ROW_BOUNDS, rows)] += int(count)
        return HistogramValue(ROW_BOUNDS, counts, float(self.rows))


def _size(rows: int) -> int:
    """The rows that a batch is counted under."""
    return rows if rows <= MOST_SIZES else 1 << (rows - 1).bit_length()
