"""The routing snapshot: names to endpoints to models, and the routes that requests take through it.

A snapshot is immutable and swapped whole. A `Route` is everything about a request that its head decides (endpoint,
model, decoder, encoder, deadline), worked out once for each distinct head and kept with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, cast

from serving.codecs import generate, grpc_infer, parts, registry
from serving.codecs.base import Decode, Encode, Encoded
from serving.codecs.plan import InputPlan
from serving.contract import Array, Conventions
from serving.errors import (
    BadRequest,
    ContainerFault,
    InternalError,
    InvalidInput,
    ModelFailure,
    NoContent,
    ServingError,
    UnknownName,
)
from serving.runtime.invocation import Face, Head, Invocation
from serving.runtime.model import Model
from serving.runtime.statistics import VariantStatistics

if TYPE_CHECKING:
    from serving.runtime.multi_model import MultiModelEndpoint
    from serving.runtime.tracing import Sampler, Tracing


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """What is served under one name: a production variant and its model, in one version; or one `target` of an endpoint."""

    name: str
    variant: str
    model: Model
    plan: InputPlan
    statistics: VariantStatistics
    target: str = ""


class Absent(Exception):
    """A target is not in memory: no fault, its model is loaded now that it is asked for."""

    def __init__(self, endpoint: MultiModelEndpoint, target: str) -> None:
        super().__init__(target)
        self.endpoint = endpoint
        self.target = target


class Moved(BadRequest):
    """The endpoint was deleted or updated while a request waited for a target of it: its head is to be looked up again."""


class Route:
    """One head's way: decode, run, encode, count."""

    __slots__ = (
        "conventions",
        "decode",
        "encode",
        "endpoint",
        "model",
        "model_priority",
        "snapshot",
        "statistics",
        "timeout_s",
        "variant",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        endpoint: Endpoint,
        decode: Decode,
        encode: Encode,
        timeout_s: float,
        priority: int,
        conventions: Conventions,
    ) -> None:
        self.snapshot = snapshot
        self.endpoint = endpoint
        self.model = endpoint.model
        self.variant = endpoint.variant
        self.statistics = endpoint.statistics
        self.decode = decode
        self.encode = encode
        self.timeout_s = timeout_s
        self.model_priority = priority
        self.conventions = conventions

    def encoded(self, item: Invocation, outputs: Sequence[Array]) -> Encoded | None:
        """One caller's rows as its answer; None where they could not be encoded and it was told so."""
        try:
            return self.encode(outputs, item.asked)
        except ServingError as error:
            self.failed(item, error)
        except Exception:
            extra = {"variant": self.variant}
            self.model.log.exception("an answer of %s could not be encoded", self.model.name, extra=extra)
            self.failed(item, InternalError())
        return None

    def count(self, item: Invocation, formed: float, ended: float, sent: float) -> None:
        """Counts an answer; `formed`, `ended` and `sent` are when its batch began, ended and was answered."""
        statistics = self.statistics
        statistics.invocations += 1
        enqueued = item.enqueued
        elapsed = sent - item.arrived
        in_model = ended - enqueued
        statistics.latency.observe(elapsed)
        statistics.model_latency.observe(in_model)
        statistics.overhead_latency.observe(elapsed - in_model)
        statistics.queue.observe(formed - enqueued)

    def told(self, error: ServingError, *, empty: bool = False) -> ServingError:
        """An error as the model's callers expect it; `empty`: the body was."""
        conventions = self.conventions
        if empty and conventions.empty_is_no_content and isinstance(error, ContainerFault):
            return NoContent()
        if conventions.unreadable_is_failure and isinstance(error, InvalidInput | ModelFailure):
            return InvalidInput(f"Unable to evaluate payload provided: {error.message}")
        return error

    def failed(self, item: Invocation, error: ServingError) -> None:
        """Sends an error and counts it."""
        error = self.told(error)
        self.statistics.failed(error)
        self.statistics.failed_s += perf_counter() - item.arrived
        item.reply.fail(item.head, error)


class TracedRoute(Route):
    """A route of a model whose requests are traced."""

    __slots__ = ("sampler",)

    sampler: Sampler

    def count(self, item: Invocation, formed: float, ended: float, sent: float) -> None:
        """Counts an answer, and has it traced."""
        super().count(item, formed, ended, sent)
        self.sampler.see(item, formed, ended, sent)


class Snapshot:
    """All endpoints at one version of the wiring; `served` has the newest version of each name first.

    `multi` are the endpoints of many models, whose `targets` come and go beside the snapshot.
    """

    def __init__(
        self,
        version: int,
        served: Iterable[Endpoint],
        default: str | None,
        account_id: str = "123456789012",
        multi: Iterable[MultiModelEndpoint] = (),
    ) -> None:
        self.version = version
        self.multi = {endpoint.name: endpoint for endpoint in multi}
        self.versions: dict[str, dict[str, Endpoint]] = {}
        for endpoint in served:
            self.versions.setdefault(endpoint.name, {})[endpoint.model.version] = endpoint
        self.endpoints = {name: next(iter(versions.values())) for name, versions in self.versions.items()}
        """The newest version of each, for those who name none."""
        self.default = default
        self.account_id = account_id
        self.default_streams = default in self.endpoints and self.endpoints[default].model.spec.streams
        """Whether `/invocations` answers in parts."""
        self.tracing: Tracing | None = None
        """What is traced of requests that are routed by it; set before it is put in force."""

    def find(self, head: Head) -> Endpoint:
        """The endpoint that a head names, or its target.

        Raises `UnknownName` or `BadRequest` in the words of its face, and `Absent`.
        """
        name = head.name if head.name is not None else self.default
        if name is None:
            raise UnknownName(self._no_default())
        multi = self.multi.get(name)
        if multi is not None:
            return _version_of(multi.find(head), head)
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            if head.face is Face.OPEN_INFERENCE:
                shown = name if head.target_model is None else f"{name}:{head.target_model}"
                raise UnknownName(f"Request for unknown model: '{shown}' is not found")
            raise UnknownName(f"Endpoint {name} of account {self.account_id} not found.")
        if head.target_model is not None:
            raise BadRequest(
                f"Endpoint {endpoint.name} is not a multi-model endpoint and does not support target model header."
            )
        if head.version is None:
            return endpoint
        versions = self.versions[name]
        if head.version not in versions:
            raise UnknownName(
                f"Request for unknown model: '{name}' version {head.version} is not found; it serves version {', '.join(versions)}"
            )
        return versions[head.version]

    def loaded(self, head: Head) -> bool:
        """Whether a head names a model that is in memory."""
        try:
            self.find(head)
        except (ServingError, Absent):
            return False
        return True

    def streams(self, head: Head) -> bool:
        """Whether a head names a model that can answer in parts."""
        try:
            return self.find(head).model.spec.streams
        except (ServingError, Absent):
            return False

    def route(self, head: Head) -> Route:
        """Works a head's route out. Raises the error to answer with where it has none, and `Absent`."""
        endpoint = self.find(head)
        if head.target_container is not None:
            raise BadRequest(
                f"Endpoint {endpoint.name} is not a multi-container endpoint in direct mode and does not support target container hostname header."
            )
        if head.target_variant is not None and head.target_variant != endpoint.variant:
            raise BadRequest(
                f"Variant {head.target_variant} of endpoint {endpoint.name} not found; it has {endpoint.variant}"
            )
        model = endpoint.model
        is_v2 = head.face is Face.OPEN_INFERENCE
        if head.grpc:
            decode = grpc_infer.decoder(endpoint.plan)
            encode = grpc_infer.encoder(model.spec, model.name, model.version)
        elif head.generate:
            decode = generate.decoder(endpoint.plan, head.content_type or "")
            encode = generate.encoder(model.spec, model.name, model.version)
        else:
            decode = registry.decoder(endpoint.plan, head.content_type or "", head.json_length, face_v2=is_v2)
            encode = registry.encoder(model.spec, model.name, model.version, head.accept, face_v2=is_v2)
        if head.streamed and model.spec.streams and not is_v2:
            encode = parts.encoder(encode)
        timeout_s = model.config.batching.default_timeout_s
        conventions = Conventions() if is_v2 else model.spec.conventions
        sampler = None if self.tracing is None else self.tracing.sampler(model.name)
        kind = Route if sampler is None else TracedRoute
        route = kind(self, endpoint, decode, encode, timeout_s, model.priority_of(head.priority), conventions)
        if sampler is not None:
            cast("TracedRoute", route).sampler = sampler
        return route

    def _no_default(self) -> str:
        if not self.endpoints and not self.multi:
            return "no model is served; start the server with --model PATH or --model-repository DIR"
        names = sorted((*self.endpoints, *self.multi))
        if len(names) == 1:
            return f"the endpoint {names[0]} is not the default; name it as /endpoints/{names[0]}/invocations"
        return (
            f"several models are served and none is the default; name one ({', '.join(names)}) as "
            "/endpoints/NAME/invocations, or start with --default-model"
        )


def _version_of(endpoint: Endpoint, head: Head) -> Endpoint:
    """A target, which has one version. Raises `UnknownName` where the head names another."""
    if head.version not in (None, endpoint.model.version):
        raise UnknownName(
            f"Request for unknown model: '{endpoint.model.name}' version {head.version} is not found; it serves version "
            f"{endpoint.model.version}"
        )
    return endpoint
