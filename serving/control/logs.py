"""CloudWatch Logs for the logs of endpoints, read-only: group `/aws/sagemaker/Endpoints/NAME`, stream `VARIANT/NODE-WORKER`.

A server has the logs of its own machine. Source: CloudWatch Logs API reference, "Filter pattern syntax".
"""

from __future__ import annotations

import asyncio
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from serving.control.call import Document, Handler, Parameters
from serving.control.log_streams import HEAD, Event, Position, Stream, streams
from serving.control.store import Place
from serving.errors import InvalidLogParameter, LogNotFound, StoreUnavailable
from serving.telemetry.endpoint_logs import NAME

PREFIX: Final = "/aws/sagemaker/Endpoints/"

MOST_EVENTS: Final = 10_000
MOST_BYTES: Final = 1024 * 1024
_EVENT_BYTES: Final = 26
"""What CloudWatch counts of each event beside its text."""
_PAGE: Final = 50
_AT_ONCE: Final = 2
"""Calls that read at the same time; the others wait."""

T = TypeVar("T")


def handlers(directory: Path, place: Place) -> Mapping[str, Handler]:
    """The operations over the logs under `directory`. They raise `LogNotFound`, `InvalidLogParameter`, `StoreUnavailable`."""
    reader = _Reader(directory, place)
    free = asyncio.Semaphore(_AT_ONCE)

    def handler(operation: Callable[[Parameters], Document]) -> Handler:
        async def handle(parameters: Parameters) -> Document:
            async with free:
                return await asyncio.to_thread(_read, operation, parameters)

        return handle

    return {
        "logs.DescribeLogGroups": handler(reader.describe_log_groups),
        "logs.DescribeLogStreams": handler(reader.describe_log_streams),
        "logs.GetLogEvents": handler(reader.get_log_events),
        "logs.FilterLogEvents": handler(reader.filter_log_events),
    }


def _read(operation: Callable[[Parameters], Document], parameters: Parameters) -> Document:
    try:
        return operation(parameters)
    except OSError as error:
        raise StoreUnavailable(f"the logs cannot be read: {error.strerror or error}") from error


class _Reader:
    """The operations; each reads files, and so blocks."""

    def __init__(self, directory: Path, place: Place) -> None:
        self._directory = directory
        self._arns = f"arn:aws:logs:{place.region}:{place.account_id}:log-group:"

    def describe_log_groups(self, parameters: Parameters) -> Document:
        """The groups by name."""
        prefix, pattern = parameters.get("logGroupNamePrefix", ""), parameters.get("logGroupNamePattern", "")
        if prefix and pattern:
            raise InvalidLogParameter(
                "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters."
            )
        wanted = {self._name(one) for one in parameters.get("logGroupIdentifiers", ())}
        names = [
            f"{PREFIX}{path.name}"
            for path in (self._directory.iterdir() if self._directory.is_dir() else ())
            if NAME.fullmatch(path.name) and path.is_dir()
        ]
        if parameters.get("logGroupClass", "STANDARD") != "STANDARD":
            names = []
        kept = [
            name
            for name in sorted(names)
            if name.startswith(prefix) and pattern in name and (not wanted or name in wanted)
        ]
        page, token = _page(kept, lambda name: (name,), parameters)
        groups = []
        for name in page:
            # The writer may have removed what had been silent for too long.
            with suppress(LogNotFound):
                groups.append(self._group(name))
        return {"logGroups": groups, **token}

    def _group(self, name: str) -> Document:
        spans = [span for stream in self._streams(name) if (span := stream.span()) is not None]
        group: Document = {
            "logGroupName": name,
            "metricFilterCount": 0,
            "arn": f"{self._arns}{name}:*",
            "logGroupArn": f"{self._arns}{name}",
            "logGroupClass": "STANDARD",
            "storedBytes": sum(span.bytes for span in spans),
        }
        return group | ({"creationTime": min(span.first_ms for span in spans)} if spans else {})

    def describe_log_streams(self, parameters: Parameters) -> Document:
        """The streams of a group, by name or by the time of their last event."""
        name = self._named(parameters)
        prefix, by_time = parameters.get("logStreamNamePrefix", ""), parameters.get("orderBy") == "LastEventTime"
        if prefix and by_time:
            raise InvalidLogParameter("Cannot order by LastEventTime with a logStreamNamePrefix.")
        found = [
            (stream, span)
            for stream in self._streams(name)
            if stream.name.startswith(prefix) and (span := stream.span()) is not None
        ]

        def key(one: tuple[Stream, Any]) -> tuple[int | str, ...]:
            return (one[1].last_ms, one[0].name) if by_time else (one[0].name,)

        page, token = _page(sorted(found, key=key), key, parameters, descending=parameters.get("descending", False))
        return {
            "logStreams": [
                {
                    "logStreamName": stream.name,
                    "creationTime": span.first_ms,
                    "firstEventTimestamp": span.first_ms,
                    "lastEventTimestamp": span.last_ms,
                    "lastIngestionTime": span.written_ms,
                    "arn": f"{self._arns}{name}:log-stream:{stream.name}",
                    "storedBytes": span.bytes,
                }
                for stream, span in page
            ],
            **token,
        }

    def get_log_events(self, parameters: Parameters) -> Document:
        """Events of one stream, forward or backward from a token; the same token where nothing is beyond it."""
        name = parameters["logStreamName"]
        stream = next((one for one in self._streams(self._named(parameters)) if one.name == name), None)
        if stream is None:
            raise LogNotFound("The specified log stream does not exist.")
        low, high = parameters.get("startTime", 0), parameters.get("endTime")
        limit = parameters.get("limit", MOST_EVENTS)

        def wanted(event: Event) -> bool:
            return low <= event.ms and (high is None or event.ms < high)

        token = parameters.get("nextToken")
        forward, position = (parameters.get("startFromHead", False), None) if token is None else _position(token)
        # Before its events, so that none that comes meanwhile is passed over.
        end = stream.end() if position is None else position
        begin = end
        if forward:
            events = list(_fitting(filter(wanted, stream.events(position or HEAD)), limit))
        else:
            known = list(stream.events()) if position is None else stream.before(position)
            events = list(_fitting(filter(wanted, reversed(known)), limit))[::-1]
        if events:
            begin, end = events[0].begin, events[-1].end
        return {
            "events": [{"timestamp": event.ms, "message": event.text, "ingestionTime": event.ms} for event in events],
            "nextForwardToken": _token("f", end),
            "nextBackwardToken": _token("b", begin),
        }

    def filter_log_events(self, parameters: Parameters) -> Document:
        """Events of a group's streams by time.

        A page with events has a token, also when nothing is beyond it now: SageMaker's SDK prints only such pages, and
        takes the token up again later.
        """
        if not parameters.get("startFromHead", True):
            raise InvalidLogParameter("this server does not list the latest events first; leave startFromHead out")
        names, prefix = parameters.get("logStreamNames"), parameters.get("logStreamNamePrefix")
        if names is not None and prefix is not None:
            raise InvalidLogParameter("logStreamNames and logStreamNamePrefix are mutually exclusive parameters.")
        known = self._streams(self._named(parameters))
        if names is not None and not {stream.name for stream in known}.issuperset(names):
            raise LogNotFound("The specified log stream does not exist.")
        chosen = [
            stream
            for stream in known
            if stream.name.startswith(prefix or "") and (names is None or stream.name in names)
        ]
        terms = _terms(parameters.get("filterPattern", ""))
        low, high = parameters.get("startTime", 0), parameters.get("endTime")

        def wanted(event: Event) -> bool:
            return low <= event.ms and (high is None or event.ms <= high) and all(term in event.text for term in terms)

        token = parameters.get("nextToken")
        positions = {} if token is None else _positions(token, {stream.name for stream in chosen})
        limit = parameters.get("limit", MOST_EVENTS)
        found = nsmallest(limit, _by_time(chosen, positions, wanted))
        page = list(_fitting((one.event for one in found), limit))
        for one in found[: len(page)]:
            positions[one.stream] = one.event.end
        return {
            "events": [
                {
                    "logStreamName": one.stream,
                    "timestamp": one.event.ms,
                    "message": one.event.text,
                    "ingestionTime": one.event.ms,
                    "eventId": f"{one.event.begin.file:020d}{one.event.begin.offset:036d}",
                }
                for one in found[: len(page)]
            ],
            "searchedLogStreams": [],
            **({"nextToken": _sealed(positions)} if page else {}),
        }

    # ------------------------------------------------------------------ groups and streams

    def _named(self, parameters: Parameters) -> str:
        name, identifier = parameters.get("logGroupName"), parameters.get("logGroupIdentifier")
        if (name is None) == (identifier is None):
            raise InvalidLogParameter("Exactly one of logGroupName and logGroupIdentifier must be given.")
        return name if name is not None else self._name(str(identifier))

    def _name(self, identifier: str) -> str:
        """A group's name from its name or ARN."""
        return identifier.removeprefix(self._arns).removesuffix(":*")

    def _streams(self, group: str) -> list[Stream]:
        endpoint = group.removeprefix(PREFIX)
        if endpoint == group or not NAME.fullmatch(endpoint):
            raise LogNotFound
        try:
            return streams(self._directory / endpoint)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LogNotFound from error


class _Found(NamedTuple):
    """An event among those of several streams. The time never goes back within a stream, so that what comes first of all
    streams is what comes first of each."""

    ms: int
    stream: str
    order: int
    event: Event


def _by_time(
    chosen: Sequence[Stream], positions: Mapping[str, Position], wanted: Callable[[Event], bool]
) -> Iterator[_Found]:
    for stream in chosen:
        latest = 0
        for order, event in enumerate(filter(wanted, stream.events(positions.get(stream.name, HEAD)))):
            latest = max(latest, event.ms)
            yield _Found(latest, stream.name, order, event)


def _fitting(events: Iterator[Event], limit: int) -> Iterator[Event]:
    """As many of the events as an answer may hold, one at least."""
    size = 0
    for event in islice(events, limit):
        size += len(event.text.encode()) + _EVENT_BYTES
        if size > MOST_BYTES and size > len(event.text.encode()) + _EVENT_BYTES:
            return
        yield event


def _terms(pattern: str) -> list[str]:
    """The terms that a text must hold, all of them. Raises `InvalidLogParameter` for what is more than terms."""
    terms: list[str] = []
    for quoted, plain in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', pattern):
        if plain and not re.fullmatch(r"\w+", plain):
            raise InvalidLogParameter(
                f"Invalid character(s) in term '{plain}': this server takes words and phrases in double quotes, all of which "
                "must be in the text"
            )
        terms.append(plain or re.sub(r"\\(.)", r"\1", quoted))
    return terms


# ---------------------------------------------------------------- tokens


def _token(direction: str, position: Position) -> str:
    """As CloudWatch's: f/ or b/ and 56 digits."""
    return f"{direction}/{position.file:020d}{position.offset:036d}"


def _position(token: str) -> tuple[bool, Position]:
    """Whether a token goes forward, and from where. Raises `InvalidLogParameter`."""
    found = re.fullmatch(r"([fb])/([0-9]{20})([0-9]{36})", token, re.ASCII)
    if found is None:
        raise _bad_token()
    return found[1] == "f", Position(int(found[2]), int(found[3]))


def _positions(token: str, names: set[str]) -> dict[str, Position]:
    return {name: position for name, position in _opened(token, dict[str, Position]).items() if name in names}


def _sealed(what: object) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(what)).decode().rstrip("=")


def _opened(token: str, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=kind)
    except (ValueError, msgspec.DecodeError) as error:
        raise _bad_token() from error


def _bad_token() -> InvalidLogParameter:
    return InvalidLogParameter("The specified nextToken is invalid.")


def _page(
    rows: Sequence[T], key: Callable[[T], tuple[int | str, ...]], parameters: Parameters, *, descending: bool = False
) -> tuple[Sequence[T], Document]:
    """A page of rows, which are in the order of their keys, and what the answer says of the next."""
    token, limit = parameters.get("nextToken"), parameters.get("limit", _PAGE)
    if descending:
        rows = rows[::-1]
    if token is not None:
        last = _opened(token, tuple[int | str, ...])
        try:
            rows = [row for row in rows if (key(row) < last if descending else key(row) > last)]
        except TypeError as error:
            # The token of a list in another order.
            raise _bad_token() from error
    page = rows[:limit]
    if len(page) == len(rows):
        return page, {}
    return page, {"nextToken": _sealed(key(page[-1]))}
