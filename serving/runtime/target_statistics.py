"""What one multi-model endpoint counts of its targets' coming and going.

Source of the names: Amazon SageMaker Developer Guide, "Monitor SageMaker with Amazon CloudWatch", multi-model metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving.runtime.cache_events import Event
from serving.runtime.statistics import Labels
from serving.telemetry.accumulators import Histogram, Sample, freeze

BOUNDS_S: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 360.0)
"""Upper bounds of how long loads take, in seconds."""


class TargetStatistics:
    """The accumulators of one endpoint's targets in one worker; times in seconds.

    `misses`: requests whose target was not in memory, of which `ended` have an answer or an error that
    counts as an invocation, or soon will; all other invocations were hits. `waited`: how long those waited.
    """

    __slots__ = ("_hits", "downloading", "ended", "endpoint", "loading", "misses", "unloading", "variant", "waited")

    def __init__(self, endpoint: str, variant: str) -> None:
        self.endpoint = endpoint
        self.variant = variant
        self.misses = 0
        self.ended = 0
        self._hits = 0
        self.waited = Histogram(BOUNDS_S)
        self.downloading = Histogram(BOUNDS_S)
        self.loading = Histogram(BOUNDS_S)
        self.unloading = Histogram(BOUNDS_S)

    def count(self, event: Event[tuple[str, str]]) -> None:
        """Counts what happened to a target."""
        if event.what == "loaded":
            self.loading.observe(event.seconds)
            if event.locating_s:
                self.downloading.observe(event.locating_s)
        elif event.what == "unloaded":
            self.unloading.observe(event.seconds)

    def samples(self, invocations: int, loaded: int) -> Iterator[Sample]:
        """All metrics, now; `invocations` are those of the endpoint in this worker, `loaded` its models in memory."""
        labels: Labels = (("endpoint_name", self.endpoint), ("variant_name", self.variant))
        # Those that go on are no invocations before they are answered; a counter must not fall meanwhile.
        self._hits = max(self._hits, invocations - self.ended)
        yield Sample("sagemaker_model_cache_hits", "counter", labels, self._hits)
        yield Sample("sagemaker_model_cache_misses", "counter", labels, self.misses)
        yield Sample("sagemaker_model_loading_wait_time_seconds", "histogram", labels, freeze(self.waited))
        yield Sample("sagemaker_model_downloading_time_seconds", "histogram", labels, freeze(self.downloading))
        yield Sample("sagemaker_model_loading_time_seconds", "histogram", labels, freeze(self.loading))
        yield Sample("sagemaker_model_unloading_time_seconds", "histogram", labels, freeze(self.unloading))
        yield Sample("sagemaker_loaded_model_count", "gauge", labels, loaded)
