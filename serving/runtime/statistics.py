"""What one variant of one endpoint counts: SageMaker's metrics and the batcher's, as plain accumulators.

Source of the names: Amazon SageMaker Developer Guide, "Monitor SageMaker with Amazon CloudWatch".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from serving.errors import ContainerFault, ServingError
from serving.telemetry.accumulators import ROW_BOUNDS, Histogram, Sample, freeze

Labels: TypeAlias = tuple[tuple[str, str], ...]

STREAM_BOUNDS_S: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 240.0, 480.0, 3600.0)
"""Upper bounds of how long streams take, in seconds."""


class VariantStatistics:
    """The accumulators of one production variant; times in seconds.

    `refusal`: from the last byte of a request read to its error written, for requests that never got to the queue.
    """

    __slots__ = (
        "endpoint",
        "errors_4xx",
        "errors_5xx",
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
    """The accumulators of one variant's answers in parts; times in seconds since the request's last byte."""

    __slots__ = ("aborted", "broken", "first_part", "open", "parts", "seconds")

    def __init__(self) -> None:
        self.open = 0
        self.parts = 0
        self.aborted = 0
        self.broken = 0
        self.first_part = Histogram()
        self.seconds = Histogram(STREAM_BOUNDS_S)

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """All metrics of the streams, now."""
        yield Sample("sagemaker_mid_stream_errors", "counter", labels, self.broken)
        yield Sample("sagemaker_first_chunk_latency_seconds", "histogram", labels, freeze(self.first_part))
        yield Sample("serving_stream_seconds", "histogram", labels, freeze(self.seconds))
        yield Sample("serving_stream_parts", "counter", labels, self.parts)
        yield Sample("serving_streams_aborted", "counter", labels, self.aborted)
        yield Sample("serving_streams_open", "gauge", labels, self.open)


class ModelStatistics:
    """The accumulators of one version of a model's batches."""

    __slots__ = (
        "batch_rows",
        "cancelled",
        "compute",
        "expired",
        "model",
        "padding_rows",
        "reasons",
        "refused",
        "version",
    )

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.compute = Histogram()
        self.batch_rows = Histogram(ROW_BOUNDS)
        self.reasons: dict[tuple[str, str], int] = {}
        self.padding_rows = 0
        self.refused = 0
        self.expired = 0
        self.cancelled = 0

    def samples(self) -> Iterator[Sample]:
        """All metrics of the model, now."""
        labels = (("model", self.model), ("version", self.version))
        yield Sample("serving_batch_compute_seconds", "histogram", labels, freeze(self.compute))
        yield Sample("serving_batch_rows", "histogram", labels, freeze(self.batch_rows))
        for (reason, mode), count in self.reasons.items():
            yield Sample("serving_batches", "counter", (*labels, ("reason", reason), ("mode", mode)), count)
        yield Sample("serving_batch_padding_rows", "counter", labels, self.padding_rows)
        yield Sample("serving_queue_refused", "counter", labels, self.refused)
        yield Sample("serving_queue_expired", "counter", labels, self.expired)
        yield Sample("serving_queue_cancelled", "counter", labels, self.cancelled)
