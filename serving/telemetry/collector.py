"""Accumulator samples of all workers to Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from serving.telemetry.accumulators import HistogramValue, Sample

HELP: Final = {
    "sagemaker_invocations": "Requests sent to the endpoint's variant (SageMaker: Invocations).",
    "sagemaker_invocation_4xx_errors": "Invocations that ended in a 4xx of the container (SageMaker: Invocation4XXErrors).",
    "sagemaker_invocation_5xx_errors": "Invocations that ended in a 5xx of the container (SageMaker: Invocation5XXErrors).",
    "sagemaker_invocation_model_errors": "Invocations without a 2xx of the model (SageMaker: InvocationModelErrors).",
    "sagemaker_model_latency_seconds": "Time in the queue and the model (SageMaker: ModelLatency).",
    "sagemaker_overhead_latency_seconds": "Time spent beside the model: decoding, encoding (SageMaker: OverheadLatency).",
    "sagemaker_mid_stream_errors": "Streams that broke after their first part (SageMaker: MidStreamErrors).",
    "sagemaker_first_chunk_latency_seconds": "Time to a stream's first part (SageMaker: FirstChunkLatency).",
    "sagemaker_model_cache_hits": "Requests whose model was in memory (SageMaker: ModelCacheHit is their share).",
    "sagemaker_model_cache_misses": "Requests whose model had to be loaded first.",
    "sagemaker_model_loading_wait_time_seconds": "Time that requests waited for their model (SageMaker: ModelLoadingWaitTime).",
    "sagemaker_model_downloading_time_seconds": "Time until a model was on disk (SageMaker: ModelDownloadingTime).",
    "sagemaker_model_loading_time_seconds": "Time to load a model into memory (SageMaker: ModelLoadingTime).",
    "sagemaker_model_unloading_time_seconds": "Time to take a model out of memory (SageMaker: ModelUnloadingTime).",
    "sagemaker_loaded_model_count": "Models in memory, counted in each worker (SageMaker: LoadedModelCount).",
    "serving_model_cache_budget_bytes": "What the models of multi-model endpoints may take of a worker's memory.",
    "serving_model_cache_held_bytes": "What they take, by all that is known.",
    "serving_model_cache_residual_bytes": "What was measured last, less what is accounted for.",
    "serving_model_cache_evicted_bytes": "Bytes of models that went for want of memory.",
    "serving_model_cache_refused": "Requests that were refused while their model was not in memory, by cause.",
    "serving_model_cache_unloaded": "Models that were taken out of memory, by cause.",
    "serving_forwarded_requests": "Requests that were forwarded to the worker that holds their model.",
    "serving_forwarded_refused": "Requests that were not, since too much was under way there.",
    "serving_forwarded_failovers": "Requests that were forwarded and then served here, since the other worker went away.",
    "serving_forwarded_in_flight": "Forwarded requests that are not answered yet.",
    "serving_forwarded_in_flight_bytes": "Bytes of the bodies of these.",
    "serving_target_locate_errors": "Artifacts of targets that workers asked for and could not have, by error.",
    "serving_target_lease_bytes": "What the targets of a worker may take of memory.",
    "serving_target_budget_bytes": "What all targets may take of memory.",
    "serving_target_suspects": "Targets that are loaded alone, since a worker ended or hung while it loaded them.",
    "serving_target_refused": "Targets that are not loaded now for that reason.",
    "serving_target_disk_bytes": "What the copies of targets take of the disk.",
    "serving_target_disk_budget_bytes": "What they may take.",
    "serving_target_disk_copies": "Targets on disk.",
    "serving_target_disk_removed": "Copies that were removed, by reason.",
    "serving_target_located": "Targets that workers asked for, by where they were.",
    "serving_target_download_seconds": "Time to fetch and unpack a target.",
    "serving_stream_seconds": "Time from the request's last byte to the end of its stream.",
    "serving_stream_parts": "Parts of streams that were taken to be sent.",
    "serving_streams_aborted": "Streams whose caller left before the end.",
    "serving_streams_open": "Streams open now.",
    "serving_request_seconds": "Time from the request's last byte to its answer.",
    "serving_refusal_seconds": "Time from the last byte read to the error written, of requests that were never queued.",
    "serving_phase_seconds": "Time of one phase of a request.",
    "serving_batch_compute_seconds": "Time of one run of the model.",
    "serving_batch_rows": "Rows of callers in a batch, padding left out.",
    "serving_batches": "Batches by why they started then, and where they ran.",
    "serving_batch_padding_rows": "Rows added to batches to reach a configured size.",
    "serving_queue_refused": "Requests refused because their predicted wait was too long.",
    "serving_queue_expired": "Requests whose deadline passed before their answer.",
    "serving_queue_cancelled": "Requests whose caller hung up before the answer.",
    "serving_cache_entries": "Answers kept now.",
    "serving_cache_bytes": "Bytes of the answers kept now.",
    "serving_cache_hits": "Requests answered with a kept answer.",
    "serving_cache_misses": "Requests whose answer was looked for and was not there.",
    "serving_cache_evictions": "Answers that made room for others.",
    "serving_cache_too_large": "Answers for which no room could be made.",
    "serving_queue_requests": "Requests queued now.",
    "serving_connections": "Open connections.",
    "serving_in_flight_bytes": "Bytes of request bodies held now.",
    "serving_unrouted_errors": "Requests that failed before an endpoint was found for them.",
    "serving_http_requests": "Requests read, of all paths.",
    "serving_model_loads": "Times that a model's versions were brought into force (ok) or could not be (failed).",
    "serving_model_unavailable": "1 for what is in a model repository and cannot be served as it is there.",
    "serving_control_calls": "Calls of the control API by operation and outcome.",
    "serving_endpoints": "Endpoints by status.",
    "serving_deployments": "Deployments by how they ended.",
    "serving_deployment_seconds": "Time from the start of a deployment to its end.",
    "serving_control_held_calls": "DescribeEndpoint calls that wait for a change now.",
    "serving_worker_starts": "Workers started since the server began.",
    "serving_endpoint_in_service": "1 when every worker serves the endpoint.",
}


def merge(groups: Iterable[Iterable[Sample]]) -> list[Sample]:
    """Samples of several processes added up by name and labels; histograms bucket by bucket."""
    merged: dict[tuple[str, tuple[tuple[str, str], ...]], Sample] = {}
    for sample in (sample for group in groups for sample in group):
        key = (sample.name, sample.labels)
        known = merged.get(key)
        merged[key] = sample if known is None else Sample(sample.name, sample.kind, sample.labels, _add(known, sample))
    return list(merged.values())


def text(samples: Iterable[Sample]) -> bytes:
    """Prometheus text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(list(samples)))
    return generate_latest(registry)


class _Samples:
    """A prometheus_client collector over fixed samples."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        by_name: dict[str, list[Sample]] = {}
        for sample in self._samples:
            by_name.setdefault(sample.name, []).append(sample)
        for name, samples in sorted(by_name.items()):
            yield _family(name, samples)


def _family(name: str, samples: list[Sample]) -> Metric:
    first = samples[0]
    label_names = [label for label, _ in first.labels]
    text = HELP.get(name, name)
    if first.kind == "histogram":
        histograms = HistogramMetricFamily(name, text, labels=label_names)
        for sample in samples:
            value = sample.value
            assert isinstance(value, HistogramValue)
            histograms.add_metric([label for _, label in sample.labels], _buckets(value), value.total)
        return histograms
    simple = (CounterMetricFamily if first.kind == "counter" else GaugeMetricFamily)(name, text, labels=label_names)
    for sample in samples:
        assert not isinstance(sample.value, HistogramValue)
        simple.add_metric([label for _, label in sample.labels], sample.value)
    return simple


def _buckets(value: HistogramValue) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    running = 0
    for bound, count in zip((*value.bounds, float("inf")), value.counts, strict=True):
        running += count
        buckets.append((floatToGoString(bound), running))
    return buckets


def _add(one: Sample, other: Sample) -> float | HistogramValue:
    a, b = one.value, other.value
    if isinstance(a, HistogramValue) and isinstance(b, HistogramValue):
        return HistogramValue(a.bounds, [x + y for x, y in zip(a.counts, b.counts, strict=True)], a.total + b.total)
    assert not isinstance(a, HistogramValue)
    assert not isinstance(b, HistogramValue)
    return a + b
