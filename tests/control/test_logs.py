"""The calls of CloudWatch Logs over real log files, validated against AWS's own service model."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from serving.control import logs
from serving.control.store import Place
from serving.errors import ControlFault, InvalidLogParameter, LogNotFound, StoreUnavailable

Call = Callable[..., dict[str, Any]]

GROUP = "/aws/sagemaker/Endpoints/fraud"
STREAM = "AllTraffic/host-0"


@pytest.fixture
def call(tmp_path: Path) -> Call:
    return caller(tmp_path)


def caller(directory: Path) -> Call:
    handlers = logs.handlers(directory, Place("123456789012", "eu-west-1"))

    def call(operation: str, **parameters: Any) -> dict[str, Any]:
        async def run() -> dict[str, Any]:
            return await handlers[f"logs.{operation}"](parameters)

        answer = asyncio.run(run())
        shape = SERVICE.operation_model(operation).output_shape
        assert ParamValidator().validate(answer, shape).generate_report() == ""
        json.dumps(answer)
        return answer

    return call


SERVICE = botocore.session.get_session().get_service_model("logs")


def write(
    directory: Path, *events: tuple[int, str], endpoint: str = "fraud", stream: str = STREAM, older: bool = False
) -> Path:
    """Adds lines to a stream's file, as the writer does."""
    file = directory / endpoint / f"{stream}.jsonl{'.1' if older else ''}"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as out:
        for ms, text in events:
            out.write(json.dumps({"t": ms, "m": text}).encode() + b"\n")
    return file


def numbered(low: int, high: int) -> list[tuple[int, str]]:
    return [(1000 + number, f"event {number}") for number in range(low, high)]


def texts(answer: dict[str, Any]) -> list[str]:
    return [event["message"] for event in answer["events"]]


# ---------------------------------------------------------------- GetLogEvents


def test_forward_from_the_head_as_sagemakers_sdk_reads(call: Call, tmp_path: Path) -> None:
    """SDK v2's `sagemaker.logs.log_stream` and v3's: read until a page is empty, later go on from its token."""
    write(tmp_path, *numbered(0, 25))
    named = {"logGroupName": GROUP, "logStreamName": STREAM, "startTime": 0, "startFromHead": True, "limit": 10}
    pages, token = [], {}
    while True:
        page = call("GetLogEvents", **named, **token)
        if not page["events"]:
            break
        pages.append(texts(page))
        token = {"nextToken": page["nextForwardToken"]}
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [text for page in pages for text in page] == [text for _, text in numbered(0, 25)]
    assert page["nextForwardToken"] == token["nextToken"]
    write(tmp_path, *numbered(25, 27))
    assert texts(call("GetLogEvents", **named, **token)) == ["event 25", "event 26"]


def test_the_latest_first_and_backward(call: Call, tmp_path: Path) -> None:
    write(tmp_path, *numbered(0, 25))
    named = {"logGroupName": GROUP, "logStreamName": STREAM, "limit": 10}
    page = call("GetLogEvents", **named)
    assert texts(page) == [f"event {number}" for number in range(15, 25)]
    assert page["events"][0] == {"timestamp": 1015, "message": "event 15", "ingestionTime": 1015}
    forward = page["nextForwardToken"]
    page = call("GetLogEvents", **named, nextToken=page["nextBackwardToken"])
    assert texts(page) == [f"event {number}" for number in range(5, 15)]
    page = call("GetLogEvents", **named, nextToken=page["nextBackwardToken"])
    assert texts(page) == [f"event {number}" for number in range(5)]
    last = page["nextBackwardToken"]
    page = call("GetLogEvents", **named, nextToken=last)
    assert (texts(page), page["nextBackwardToken"]) == ([], last)
    page = call("GetLogEvents", **named, nextToken=forward)
    assert (texts(page), page["nextForwardToken"]) == ([], forward)


def test_tokens_are_cloudwatchs_form(call: Call, tmp_path: Path) -> None:
    write(tmp_path, (1, "x"))
    page = call("GetLogEvents", logGroupName=GROUP, logStreamName=STREAM)
    for direction, token in (("f/", page["nextForwardToken"]), ("b/", page["nextBackwardToken"])):
        assert token.startswith(direction)
        assert len(token) == 58
        assert token[2:].isdigit()


def test_a_token_outlives_a_new_file(call: Call, tmp_path: Path) -> None:
    file = write(tmp_path, *numbered(0, 10))
    named = {"logGroupName": GROUP, "logStreamName": STREAM, "startFromHead": True}
    token = call("GetLogEvents", **named, limit=8)["nextForwardToken"]
    file.replace(file.with_name("host-0.jsonl.1"))
    write(tmp_path, *numbered(10, 12))
    page = call("GetLogEvents", **named, nextToken=token)
    assert texts(page) == [f"event {number}" for number in range(8, 12)]
    back = call("GetLogEvents", **named, nextToken=page["nextBackwardToken"])
    assert texts(back) == [f"event {number}" for number in range(8)]


def test_a_token_whose_file_is_gone_goes_on_with_what_is_left(call: Call, tmp_path: Path) -> None:
    file = write(tmp_path, *numbered(0, 10))
    named = {"logGroupName": GROUP, "logStreamName": STREAM, "startFromHead": True}
    page = call("GetLogEvents", **named)
    file.unlink()
    write(tmp_path, *numbered(20, 22), older=True)
    write(tmp_path, *numbered(22, 24))
    token = page["nextForwardToken"]
    assert texts(call("GetLogEvents", **named, nextToken=token)) == [f"event {number}" for number in range(20, 24)]
    assert texts(call("GetLogEvents", **named, nextToken=page["nextBackwardToken"])) == []


def test_times_bound_what_is_given(call: Call, tmp_path: Path) -> None:
    write(tmp_path, *numbered(0, 10))
    named = {"logGroupName": GROUP, "logStreamName": STREAM, "startFromHead": True}
    assert texts(call("GetLogEvents", **named, startTime=1003, endTime=1005)) == ["event 3", "event 4"]
    none = call("GetLogEvents", **named, startTime=5000)
    assert texts(none) == []
    write(tmp_path, (6000, "late"))
    assert texts(call("GetLogEvents", **named, startTime=5000, nextToken=none["nextForwardToken"])) == ["late"]


def test_an_answer_holds_a_mebibyte_at_most(call: Call, tmp_path: Path) -> None:
    write(tmp_path, *((number, f"{number} " + "ä" * 100_000) for number in range(12)))
    named = {"logGroupName": GROUP, "logStreamName": STREAM, "startFromHead": True}
    page = call("GetLogEvents", **named)
    assert [text.split()[0] for text in texts(page)] == ["0", "1", "2", "3", "4"]
    page = call(
        "FilterLogEvents", logGroupName=GROUP, nextToken=call("FilterLogEvents", logGroupName=GROUP)["nextToken"]
    )
    assert [text.split()[0] for text in texts(page)] == ["5", "6", "7", "8", "9"]


def test_what_is_no_line_is_passed_over(call: Call, tmp_path: Path) -> None:
    file = write(tmp_path, (1, "one"))
    with file.open("ab") as out:
        out.write(b'{"t":2,"m":"cut sho\n\n[1]\n{"t":"x","m":1}\n\xff\xfe\n')
    write(tmp_path, (3, "three"))
    with file.open("ab") as out:
        out.write(b'{"t":4,"m":"not yet whole"')
    assert texts(call("FilterLogEvents", logGroupName=GROUP)) == ["one", "three"]


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(0, 30), st.integers(1, 7), st.booleans())
def test_paging_either_way_gives_every_event_once(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], cut: int, limit: int, forward: bool
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    events = [(sum(gaps[: number + 1]), f"event {number}") for number in range(len(gaps))]
    write(directory, *events[:cut], older=True)
    write(directory, *events[cut:])
    call = caller(directory)
    named = {"logGroupName": GROUP, "logStreamName": STREAM, "limit": limit, "startFromHead": forward}
    found: list[str] = []
    token: dict[str, str] = {}
    while texts(page := call("GetLogEvents", **named, **token)):
        found = found + texts(page) if forward else texts(page) + found
        token = {"nextToken": page["nextForwardToken" if forward else "nextBackwardToken"]}
    assert found == [text for _, text in events]


# ---------------------------------------------------------------- FilterLogEvents


def test_streams_are_merged_by_time(call: Call, tmp_path: Path) -> None:
    write(tmp_path, (1, "a1"), (4, "a4"), (5, "a5"), stream="AllTraffic/host-0")
    write(tmp_path, (2, "b2"), (3, "b3"), (6, "b6"), stream="v2/host-1")
    answer = call("FilterLogEvents", logGroupName=GROUP)
    assert texts(answer) == ["a1", "b2", "b3", "a4", "a5", "b6"]
    assert answer["events"][1]["logStreamName"] == "v2/host-1"
    assert len({event["eventId"] for event in answer["events"]}) == 6
    assert texts(call("FilterLogEvents", logGroupName=GROUP, logStreamNamePrefix="v2/")) == ["b2", "b3", "b6"]
    assert texts(call("FilterLogEvents", logGroupName=GROUP, logStreamNames=["AllTraffic/host-0"])) == [
        "a1",
        "a4",
        "a5",
    ]
    assert texts(call("FilterLogEvents", logGroupName=GROUP, startTime=2, endTime=4)) == ["b2", "b3", "a4"]


def test_a_follower_loses_nothing_that_is_written_late(call: Call, tmp_path: Path) -> None:
    """An event may reach the disk after a later one of another worker was read."""
    write(tmp_path, (10, "a10"), stream="v/a")
    write(tmp_path, (12, "b12"), stream="v/b")
    token = call("FilterLogEvents", logGroupName=GROUP)["nextToken"]
    assert call("FilterLogEvents", logGroupName=GROUP, nextToken=token) == {"events": [], "searchedLogStreams": []}
    write(tmp_path, (11, "a11"), stream="v/a")
    write(tmp_path, (9, "c9"), stream="v/c")
    assert texts(call("FilterLogEvents", logGroupName=GROUP, nextToken=token)) == ["c9", "a11"]


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 12)
)
def test_pages_give_every_event_once_whatever_the_times(
    tmp_path_factory: pytest.TempPathFactory, times: list[list[int]], limit: int, cut: int
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    (directory / "fraud").mkdir()
    expected: list[str] = []
    for number, stream in enumerate(times):
        events = [(ms, f"{number}.{order}") for order, ms in enumerate(stream)]
        write(directory, *events[:cut], stream=f"v/{number}", older=True)
        write(directory, *events[cut:], stream=f"v/{number}")
        expected += [text for _, text in events]
    call = caller(directory)
    found: list[str] = []
    token: dict[str, str] = {}
    while texts(page := call("FilterLogEvents", logGroupName=GROUP, limit=limit, **token)):
        assert len(page["events"]) <= limit
        found += texts(page)
        token = {"nextToken": page["nextToken"]}
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["ERROR fraud: tree 7", "ERROR other", 'INFO a "b" c', "error tree"]),
        ("  ", ["ERROR fraud: tree 7", "ERROR other", 'INFO a "b" c', "error tree"]),
        ("ERROR", ["ERROR fraud: tree 7", "ERROR other"]),
        ("ERROR tree", ["ERROR fraud: tree 7"]),
        ('"fraud: tree"', ["ERROR fraud: tree 7"]),
        ('ERROR "tree 7"', ["ERROR fraud: tree 7"]),
        (r'"a \"b\""', ['INFO a "b" c']),
        ("none_such", []),
    ],
)
def test_terms_must_all_be_in_the_text(call: Call, tmp_path: Path, pattern: str, found: list[str]) -> None:
    write(tmp_path, (1, "ERROR fraud: tree 7"), (2, "ERROR other"), (3, 'INFO a "b" c'), (4, "error tree"))
    assert texts(call("FilterLogEvents", logGroupName=GROUP, filterPattern=pattern)) == found


@pytest.mark.parametrize(
    "pattern", ["{ $.level = ERROR }", "[w1, w2]", "?ERROR ?WARN", "-INFO", "%ERR.R%", 'a"b', '"open', "ERROR:", "a.b"]
)
def test_what_is_more_than_terms_is_refused(call: Call, tmp_path: Path, pattern: str) -> None:
    write(tmp_path, (1, "x"))
    with pytest.raises(InvalidLogParameter, match=r"Invalid character\(s\) in term"):
        call("FilterLogEvents", logGroupName=GROUP, filterPattern=pattern)


# ---------------------------------------------------------------- groups and streams


def test_streams_are_described(call: Call, tmp_path: Path) -> None:
    write(tmp_path, (1000, "a"), older=True)
    file = write(tmp_path, (2000, "b"), (3000, "c"))
    (found,) = call("DescribeLogStreams", logGroupName=GROUP, logStreamNamePrefix="AllTraffic/")["logStreams"]
    assert found.pop("lastIngestionTime") == int(file.stat().st_mtime * 1000)
    assert found.pop("storedBytes") == file.stat().st_size + file.with_name("host-0.jsonl.1").stat().st_size
    assert found == {
        "logStreamName": STREAM,
        "creationTime": 1000,
        "firstEventTimestamp": 1000,
        "lastEventTimestamp": 3000,
        "arn": f"arn:aws:logs:eu-west-1:123456789012:log-group:{GROUP}:log-stream:{STREAM}",
    }


def test_streams_come_in_pages_in_either_order(call: Call, tmp_path: Path) -> None:
    for number in range(7):
        write(tmp_path, (1000 - number, "x"), stream=f"v/host-{number}")
    for order, descending, expected in (
        ("LogStreamName", False, range(7)),
        ("LogStreamName", True, range(6, -1, -1)),
        ("LastEventTime", False, range(6, -1, -1)),
        ("LastEventTime", True, range(7)),
    ):
        found, token = [], {}
        while True:
            page = call(
                "DescribeLogStreams", logGroupName=GROUP, orderBy=order, descending=descending, limit=3, **token
            )
            found += [stream["logStreamName"] for stream in page["logStreams"]]
            if "nextToken" not in page:
                break
            token = {"nextToken": page["nextToken"]}
        assert found == [f"v/host-{number}" for number in expected]


def test_groups_are_described(call: Call, tmp_path: Path) -> None:
    for endpoint in ("fraud", "fraud-2", "other"):
        write(tmp_path, (1000, "x"), endpoint=endpoint)
    (tmp_path / "no group").mkdir()
    (tmp_path / "file").write_text("")

    def named(**parameters: Any) -> list[str]:
        return [
            group["logGroupName"].rpartition("/")[2] for group in call("DescribeLogGroups", **parameters)["logGroups"]
        ]

    assert named() == ["fraud", "fraud-2", "other"]
    assert named(logGroupNamePrefix=GROUP) == ["fraud", "fraud-2"]
    assert named(logGroupNamePattern="oth") == ["other"]
    assert named(logGroupIdentifiers=[f"arn:aws:logs:eu-west-1:123456789012:log-group:{GROUP}"]) == ["fraud"]
    assert named(logGroupClass="INFREQUENT_ACCESS") == []
    page = call("DescribeLogGroups", limit=2)
    assert [group["logGroupName"] for group in call("DescribeLogGroups", nextToken=page["nextToken"])["logGroups"]] == [
        "/aws/sagemaker/Endpoints/other"
    ]
    assert page["logGroups"][0]["arn"] == f"arn:aws:logs:eu-west-1:123456789012:log-group:{GROUP}:*"
    assert page["logGroups"][0]["creationTime"] == 1000


def test_no_logs_at_all_are_no_groups(tmp_path: Path) -> None:
    assert caller(tmp_path / "none")("DescribeLogGroups") == {"logGroups": []}


def test_a_group_goes_by_its_arn_too(call: Call, tmp_path: Path) -> None:
    write(tmp_path, (1, "x"))
    for suffix in ("", ":*"):
        arn = f"arn:aws:logs:eu-west-1:123456789012:log-group:{GROUP}{suffix}"
        assert texts(call("FilterLogEvents", logGroupIdentifier=arn)) == ["x"]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("operation", "parameters", "error", "message"),
    [
        ("GetLogEvents", {"logGroupName": "/aws/sagemaker/Endpoints/none"}, LogNotFound, "log group does not exist"),
        ("GetLogEvents", {"logGroupName": "/aws/sagemaker/TrainingJobs"}, LogNotFound, "log group does not exist"),
        ("GetLogEvents", {"logGroupName": "/aws/sagemaker/Endpoints/"}, LogNotFound, "log group does not exist"),
        ("GetLogEvents", {"logGroupName": "/aws/sagemaker/Endpoints/.."}, LogNotFound, "log group does not exist"),
        ("GetLogEvents", {"logGroupName": f"{GROUP}/AllTraffic"}, LogNotFound, "log group does not exist"),
        ("GetLogEvents", {"logStreamName": "AllTraffic/host-9"}, LogNotFound, "log stream does not exist"),
        ("GetLogEvents", {"logStreamName": "../fraud/AllTraffic/host-0"}, LogNotFound, "log stream does not exist"),
        ("GetLogEvents", {"logStreamName": "AllTraffic/host-0.jsonl"}, LogNotFound, "log stream does not exist"),
        ("GetLogEvents", {"nextToken": "x"}, InvalidLogParameter, "specified nextToken is invalid"),
        ("GetLogEvents", {"nextToken": "f/12"}, InvalidLogParameter, "specified nextToken is invalid"),
        ("GetLogEvents", {"logGroupIdentifier": GROUP}, InvalidLogParameter, "Exactly one of"),
        ("GetLogEvents", {"logGroupName": None}, InvalidLogParameter, "Exactly one of"),
        (
            "GetLogEvents",
            {"logGroupName": None, "logGroupIdentifier": f"arn:aws:logs:us-east-1:123456789012:log-group:{GROUP}"},
            LogNotFound,
            "log group",
        ),
        ("FilterLogEvents", {"logStreamNames": [STREAM], "logStreamNamePrefix": "A"}, InvalidLogParameter, "exclusive"),
        ("FilterLogEvents", {"logStreamNames": [STREAM, "x"]}, LogNotFound, "log stream does not exist"),
        ("FilterLogEvents", {"nextToken": "!"}, InvalidLogParameter, "specified nextToken is invalid"),
        ("FilterLogEvents", {"nextToken": "aGVsbG8"}, InvalidLogParameter, "specified nextToken is invalid"),
        ("FilterLogEvents", {"nextToken": "ä"}, InvalidLogParameter, "specified nextToken is invalid"),
        ("FilterLogEvents", {"startFromHead": False}, InvalidLogParameter, "latest events first"),
        ("DescribeLogStreams", {"logGroupName": "x"}, LogNotFound, "log group does not exist"),
        (
            "DescribeLogStreams",
            {"logStreamNamePrefix": "A", "orderBy": "LastEventTime"},
            InvalidLogParameter,
            "Cannot order by LastEventTime",
        ),
        ("DescribeLogStreams", {"nextToken": "kgGheA"}, InvalidLogParameter, "specified nextToken is invalid"),
        (
            "DescribeLogGroups",
            {"logGroupNamePrefix": "a", "logGroupNamePattern": "b"},
            InvalidLogParameter,
            "exclusive",
        ),
    ],
)
def test_bad_calls(
    call: Call, tmp_path: Path, operation: str, parameters: dict[str, Any], error: type[ControlFault], message: str
) -> None:
    write(tmp_path, (1, "x"))
    write(tmp_path, (1, "x"), stream="AllTraffic/host-1")
    whole = {"logGroupName": GROUP} if operation != "DescribeLogGroups" else {}
    whole |= {"logStreamName": STREAM} if operation == "GetLogEvents" else {}
    whole = {name: value for name, value in (whole | parameters).items() if value is not None}
    with pytest.raises(error, match=message):
        call(operation, **whole)


def test_errors_are_those_of_the_logs_service() -> None:
    modelled = {shape.name for shape in SERVICE.operation_model("GetLogEvents").error_shapes}
    assert {LogNotFound.sagemaker_code, InvalidLogParameter.sagemaker_code} <= modelled


def test_files_that_cannot_be_read_are_a_clear_error(call: Call, tmp_path: Path) -> None:
    (tmp_path / "fraud" / "v" / "host-0.jsonl").mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match="the logs cannot be read: Is a directory"):
        call("FilterLogEvents", logGroupName=GROUP)


def test_groups_that_go_while_they_are_listed_are_left_out(tmp_path: Path, call: Call) -> None:
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(20):
                write(tmp_path, (1, "x"), endpoint=f"e{number}")
            for number in range(20):
                shutil.rmtree(tmp_path / f"e{number}")

    writer = threading.Thread(target=come_and_go)
    writer.start()
    try:
        for _ in range(100):
            call("DescribeLogGroups")
    finally:
        ended.set()
        writer.join()
