"""The control plane's front: calls of the AWS APIs in, their answers out, whatever happens."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from serving.control import json_protocol, query_protocol
from serving.control.call import MOST_BYTES, Answer, Document, Handler, Operation, Parameters, Request
from serving.control.refusal import refusal
from serving.control.review import TooSlow
from serving.control.service import PATTERN_TIME_S, Catalogue, Service
from serving.errors import (
    ControlFault,
    InternalError,
    InvalidSignature,
    NotSerialized,
    ServingError,
    TooLarge,
    UnknownOperation,
)
from serving.settings import Settings
from serving.telemetry.accumulators import Sample

if TYPE_CHECKING:
    from serving.control.store import Store

log = logging.getLogger("serving.control")

INLINE_BYTES: Final = 16 * 1024
"""Of a body that is parsed and checked, or of an answer that is checked and written, on the loop; larger ones go to a thread."""
MOST_ANSWERED: Final = 16 * 1024 * 1024
"""Bytes of an answer: above what any one resource has, below what workers are sent."""
INLINE_PATTERN_TIME_S: Final = 0.02
"""What patterns may take on the loop; where that is not enough the document goes to a thread."""
MOST_HELD: Final = 256
"""DescribeEndpoint calls that wait for a change at once; further ones are answered at once."""
MOST_LOOKS: Final = 4
"""Of those, how many look at the database at the same time when there are news: other calls do not wait behind them all."""

HELD: Final = "sagemaker.DescribeEndpoint"
HELD_STATUSES: Final = frozenset({"Creating", "Updating", "Deleting"})


class Call(msgspec.Struct):
    """A request as far as it is understood."""

    service: str = ""
    """As botocore names it."""
    operation: str = ""
    query: bool = False
    """The query protocol; else JSON."""
    fields: dict[str, str] = {}
    """The form of the query protocol."""

    @property
    def key(self) -> str:
        """What the operation is called in the tables of operations."""
        return f"{self.service}.{self.operation}"


class ControlPlane:
    """Answers the calls of the AWS APIs. Raises `MissingExtra` where botocore's service models are not there."""

    def __init__(
        self,
        store: Store,
        operations: Mapping[str, Operation],
        handlers: Mapping[str, Handler],
        settings: Settings,
    ) -> None:
        self._store = store
        self._operations = operations
        self._handlers = handlers
        self._hold_s = settings.describe_hold_s
        self._built = frozenset(operations) | frozenset(handlers)
        self.catalogue = Catalogue(self._built)
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self.held = 0
        """DescribeEndpoint calls that wait for a change now."""
        self._looks = asyncio.Semaphore(MOST_LOOKS)

    async def answer(self, request: Request) -> Answer:
        """The answer to a call; AWS's error where it fails. Never raises."""
        call = Call()
        try:
            answer, outcome = await self._answer(request, call), "OK"
        except ServingError as error:
            answer, outcome = refusal(error, request, call.service), error.sagemaker_code or "InternalFailure"
            if error.sagemaker_status == 500:
                log.error("%s failed: %s", self._named(call), error.message)
        except Exception:
            log.exception("%s failed (request %s)", self._named(call), request.request_id)
            why = f"the call failed in the server, whose log has the cause (request {request.request_id})"
            answer, outcome = refusal(InternalError(why), request, call.service), "InternalFailure"
        self._outcomes[self._named(call), outcome] += 1
        return answer

    def samples(self) -> list[Sample]:
        """Counts of calls by operation and outcome, which is `OK` or the error's code; calls that are held."""
        counts = [
            Sample("serving_control_calls", "counter", (("operation", operation), ("outcome", outcome)), count)
            for (operation, outcome), count in self._outcomes.items()
        ]
        return [*counts, Sample("serving_control_held_calls", "gauge", (), self.held)]

    def release(self) -> None:
        """Answers the calls that are held, and holds no more: nobody who stops the server waits for them."""
        self._hold_s = 0.0
        self._store.news.tell()

    def _named(self, call: Call) -> str:
        """The operation for logs and metrics, which take no names of a caller's invention."""
        return call.key if call.key in self._built else "unknown"

    async def _answer(self, request: Request, call: Call) -> Answer:
        if len(request.body) > MOST_BYTES:
            raise TooLarge(f"the body has {len(request.body)} bytes; at most {MOST_BYTES} were expected")
        await self._address(request, call)
        service = await self._service(request, call)
        parameters = await self._read(service, request, call)
        document = await self._run(call.key, parameters)
        return await self._write(service, call, document, request.request_id)

    async def _address(self, request: Request, call: Call) -> None:
        """Finds out which operation of which service is called. Raises `UnknownOperation` and `NotSerialized`."""
        call.service = request.scope
        if request.target:
            if request.content_type.partition(";")[0].strip().lower() not in json_protocol.MEDIA_TYPES:
                raise UnknownOperation(
                    f"Content-Type is {request.content_type[:128]!r}; {json_protocol.CONTENT_TYPE} was expected with X-Amz-Target"
                )
            call.service, call.operation = json_protocol.addressed(request)
        elif query_protocol.speaks(request):
            call.query = True
            large = len(request.body) > INLINE_BYTES
            call.fields = (
                await asyncio.to_thread(query_protocol.read, request) if large else query_protocol.read(request)
            )
            call.operation = call.fields.get("Action", "")
            if not call.operation:
                raise NotSerialized("the form has no Action, which names the operation")
            if not call.service:
                # Unsigned: the first service that has it.
                call.service = next(
                    (key.partition(".")[0] for key in sorted(self._built) if key.endswith(f".{call.operation}")), ""
                )
        else:
            raise UnknownOperation("X-Amz-Target is missing; SageMaker.CreateModel and the like was expected")

    async def _service(self, request: Request, call: Call) -> Service:
        """The service that a call is for. Raises `UnknownOperation` for what is not built, and `InvalidSignature`."""
        if call.service not in self.catalogue.known:
            named = call.service if self.catalogue.is_of_aws(call.service) else "that API"
            here = ", ".join(sorted(self.catalogue.known))
            raise UnknownOperation(f"this server has no {call.operation[:128]}: it serves {here}, and not {named}")
        if request.scope and request.scope != call.service:
            raise InvalidSignature(f"Credential should be scoped to correct service: '{call.service}'.")
        service = self.catalogue.loaded(call.service)
        if service is None:
            service = await asyncio.to_thread(self.catalogue.service, call.service)
        if call.query != (service.protocol == "query"):
            raise NotSerialized(f"{call.service} does not speak that protocol; its own is {service.protocol}")
        if call.key in self._built:
            return service
        if call.operation in service.names:
            raise UnknownOperation(f"this server does not have {call.key} yet")
        raise UnknownOperation(
            f"there is no operation {call.operation[:128]} in version {service.version} of {call.service}"
        )

    async def _read(self, service: Service, request: Request, call: Call) -> Parameters:
        def read(budget_s: float, *, yields: bool) -> Parameters:
            document = (
                query_protocol.inputs(service, call.operation, call.fields)
                if call.query
                else json_protocol.read(request)
            )
            return service.read(call.operation, document, budget_s, yields=yields)

        if len(request.body) <= INLINE_BYTES:
            try:
                return read(INLINE_PATTERN_TIME_S, yields=False)
            except TooSlow:
                pass
        try:
            return await asyncio.to_thread(read, PATTERN_TIME_S, yields=True)
        except TooSlow as error:
            raise ControlFault(
                f"1 validation error detected: matching a value with the pattern {error} takes too long"
            ) from None

    async def _write(self, service: Service, call: Call, document: Document, request_id: str) -> Answer:
        def write() -> Answer:
            checked, wrong = service.check_output(call.operation, document, patterns=False)
            if wrong:
                paths = ", ".join(dict.fromkeys(fault.path or "the answer" for fault in wrong))
                log.error("the answer of %s is not what AWS's service model says: %s", call.key, paths)
            answer = query_protocol.answer if call.query else json_protocol.answer
            return answer(service, call.operation, checked, request_id)

        # Encoding is hundreds of times faster than checking.
        length = len(json_protocol.encode(document))
        if length > MOST_ANSWERED:
            raise ControlFault(
                f"the answer has {length} bytes; at most {MOST_ANSWERED} can be given: ask for less at once"
            )
        return write() if length <= INLINE_BYTES else await asyncio.to_thread(write)

    async def _run(self, key: str, parameters: Parameters) -> Document:
        handler = self._handlers.get(key)
        if handler is not None:
            return await handler(parameters)
        operation = self._operations[key]
        if key == HELD:
            return await self._hold(operation, parameters)
        return await self._store.run(lambda transaction: operation(transaction, parameters))

    async def _hold(self, operation: Operation, parameters: Parameters) -> Document:
        """The endpoint once its status is one that lasts, or when the time for that is up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._hold_s
        news = self._store.news
        seen = news.count
        document = await self._store.run(lambda transaction: operation(transaction, parameters))
        if self.held >= MOST_HELD:
            return document
        self.held += 1
        try:
            while (
                self._hold_s and document.get("EndpointStatus") in HELD_STATUSES and (left := until - loop.time()) > 0
            ):
                seen = await news.wait(seen, left)
                async with self._looks:
                    document = await self._store.run(lambda transaction: operation(transaction, parameters))
        finally:
            self.held -= 1
        return document
