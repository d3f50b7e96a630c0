"""Logs of endpoints: what is kept where, within which bounds, and that whoever logs never notices."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.telemetry import logs
from serving.telemetry.endpoint_logs import LIMITS, EndpointLogger, EndpointLogs, LogLimits, prune
from tests.support.server import wait_until

FRAUD = {"endpoint": "fraud", "variant": "v1"}


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of its own that reaches nobody else."""
    found = logging.getLogger("tests.endpoint_logs")
    found.propagate = False
    found.setLevel(logging.DEBUG)
    yield found
    for handler in found.handlers:
        handler.close()
    found.handlers.clear()


def kept(logger: logging.Logger, directory: Path, **limits: Any) -> EndpointLogs:
    handler = EndpointLogs(directory, "host", "0", LogLimits(**limits))
    logger.addHandler(handler)
    return handler


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_records_that_name_an_endpoint_go_to_its_log(logger: logging.Logger, tmp_path: Path) -> None:
    handler = kept(logger, tmp_path)
    logger.info("loaded in %d ms", 12, extra=FRAUD)
    logger.info("of nobody")
    logger.info("of the only variant", extra={"endpoint": "other"})
    handler.flush()
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jsonl")) == [
        Path("fraud/v1/host-0.jsonl"),
        Path("other/AllTraffic/host-0.jsonl"),
    ]
    (line,) = lines(tmp_path / "fraud" / "v1" / "host-0.jsonl")
    assert line["m"] == "INFO loaded in 12 ms"
    assert 1.6e12 < line["t"] < 1e13
    assert (tmp_path / "fraud" / "v1" / "host-0.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_exception_is_told_with_its_text(logger: logging.Logger, tmp_path: Path) -> None:
    handler = kept(logger, tmp_path)
    try:
        raise ValueError("the seventh tree is missing")
    except ValueError:
        logger.exception("model fraud failed", extra=FRAUD)
    handler.flush()
    (line,) = lines(tmp_path / "fraud" / "v1" / "host-0.jsonl")
    assert line["m"].startswith("ERROR model fraud failed\nTraceback (most recent call last):\n")
    assert line["m"].endswith("ValueError: the seventh tree is missing")


@pytest.mark.parametrize(
    "extra",
    [
        {"endpoint": "../escape"},
        {"endpoint": ".."},
        {"endpoint": ""},
        {"endpoint": "a/b"},
        {"endpoint": "a\x00b"},
        {"endpoint": "a" * 129},
        {"endpoint": "-rf"},
        {"endpoint": 7},
        {"endpoint": "fraud", "variant": "../../up"},
        {"endpoint": "fraud", "variant": "/etc"},
        {"endpoint": "fraud", "variant": object()},
    ],
)
def test_a_name_that_is_no_part_of_a_path_makes_no_file(
    logger: logging.Logger, tmp_path: Path, extra: dict[str, Any]
) -> None:
    handler = kept(logger, tmp_path / "logs")
    logger.info("hostile", extra=extra)
    logger.info("good", extra=FRAUD)
    handler.flush()
    assert [path.name for path in tmp_path.rglob("*.jsonl*")] == ["host-0.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_node_of_any_name_is_a_stream(logger: logging.Logger, tmp_path: Path) -> None:
    handler = EndpointLogs(tmp_path, "../my host!", "worker/1")
    logger.addHandler(handler)
    logger.info("x", extra=FRAUD)
    handler.flush()
    assert [path.name for path in (tmp_path / "fraud" / "v1").iterdir()] == ["my-host-worker-1.jsonl"]


def test_nothing_is_raised_where_nothing_can_be_written(logger: logging.Logger, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    handler = kept(logger, tmp_path / "logs")
    logger.info("lost", extra=FRAUD)
    handler.handle(logging.makeLogRecord({"msg": "badly %d formatted", "args": ("x",), **FRAUD}))
    handler.flush()
    (tmp_path / "logs").unlink()
    logger.info("kept", extra=FRAUD)
    handler.flush()
    assert [line["m"] for line in lines(tmp_path / "logs" / "fraud" / "v1" / "host-0.jsonl")] == ["INFO kept"]


def test_a_stream_has_two_files_of_bounded_size(logger: logging.Logger, tmp_path: Path) -> None:
    handler = kept(logger, tmp_path, file_bytes=2000)
    for number in range(200):
        logger.info("record %d", number, extra=FRAUD)
        handler.flush()
    folder = tmp_path / "fraud" / "v1"
    assert sorted(path.name for path in folder.iterdir()) == ["host-0.jsonl", "host-0.jsonl.1"]
    assert all(path.stat().st_size <= 2000 for path in folder.iterdir())
    together = lines(folder / "host-0.jsonl.1") + lines(folder / "host-0.jsonl")
    texts = [line["m"] for line in together]
    assert texts == [f"INFO record {number}" for number in range(200 - len(texts), 200)]
    assert len(texts) > 40


def test_few_files_are_open_at_once(logger: logging.Logger, tmp_path: Path) -> None:
    handler = kept(logger, tmp_path, open_files=4)
    for number in range(40):
        logger.info("x", extra={"endpoint": f"e{number % 20}"})
    handler.flush()
    assert sum(Path(file.path).is_relative_to(tmp_path) for file in psutil.Process().open_files()) == 4
    assert all(len(lines(path)) == 2 for path in tmp_path.rglob("*.jsonl"))


def test_two_processes_that_share_a_stream_lose_nothing(logger: logging.Logger, tmp_path: Path) -> None:
    """A worker that is replaced and its successor; both turn to a new file when it is time."""
    handlers = [kept(logger, tmp_path, file_bytes=4000) for _ in range(2)]
    for number in range(90):
        logger.info("record %d", number, extra=FRAUD)
        for handler in handlers:
            handler.flush()
    folder = tmp_path / "fraud" / "v1"
    together = lines(folder / "host-0.jsonl.1") + lines(folder / "host-0.jsonl")
    numbers = [int(line["m"].split()[-1]) for line in together]
    assert numbers == [number for number in range(90) for _ in handlers][-len(numbers) :]
    assert len(numbers) > 80


def test_a_half_line_does_not_spoil_the_next(logger: logging.Logger, tmp_path: Path) -> None:
    file = tmp_path / "fraud" / "v1" / "host-0.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b'{"t":1,"m":"cut sho')
    handler = kept(logger, tmp_path)
    logger.info("whole", extra=FRAUD)
    handler.flush()
    assert json.loads(file.read_text().splitlines()[1])["m"] == "INFO whole"


def test_a_removed_log_begins_anew(logger: logging.Logger, tmp_path: Path) -> None:
    handler = kept(logger, tmp_path)
    logger.info("one", extra=FRAUD)
    handler.flush()
    file = tmp_path / "fraud" / "v1" / "host-0.jsonl"
    file.unlink()
    logger.info("two", extra=FRAUD)
    handler.flush()
    assert [line["m"] for line in lines(file)] == ["INFO two"]


def test_what_comes_faster_than_the_disk_takes_it_is_left_out_and_counted(
    logger: logging.Logger, tmp_path: Path
) -> None:
    """The disk is a named pipe that nobody reads, so that the thread stands still at the first record."""
    handler = kept(logger, tmp_path, queued=10)
    pipe = tmp_path / "stuck" / "AllTraffic" / "host-0.jsonl"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    while True:
        try:
            os.write(held, bytes(4096))
        except BlockingIOError:
            break
    logger.info("into the pipe", extra={"endpoint": "stuck"})
    for number in range(50):
        logger.info("record %d", number, extra=FRAUD)
    assert not (tmp_path / "fraud").exists()
    while True:
        try:
            os.read(held, 1 << 20)
        except BlockingIOError:
            break
    wait_until((tmp_path / "fraud" / "v1" / "host-0.jsonl").exists, 5, "the first line")
    handler.flush()
    logger.info("after", extra=FRAUD)
    handler.flush()
    os.close(held)
    texts = [line["m"] for line in lines(tmp_path / "fraud" / "v1" / "host-0.jsonl")]
    assert texts[:-1] == [f"INFO record {number}" for number in range(len(texts) - 1)]
    assert len(texts) - 1 <= 10
    left_out = 50 - (len(texts) - 1)
    assert (
        texts[-1]
        == f"INFO after ({left_out} records before it were left out: they came faster than the disk takes them)"
    )


@given(st.text(max_size=200), st.integers(1, 400))
def test_long_texts_keep_their_begin_and_end(text: str, times: int) -> None:
    from serving.telemetry.endpoint_logs import _limited

    whole = text * times
    found = _limited(whole, 1000)
    assert len(found.encode()) <= 1000 + len(" [...] ")
    if len(whole.encode("utf-8", "backslashreplace")) <= 1000:
        assert found == whole.encode("utf-8", "backslashreplace").decode()
    else:
        head, _, tail = found.partition(" [...] ")
        assert whole.encode("utf-8", "backslashreplace").decode().startswith(head)
        assert whole.encode("utf-8", "backslashreplace").decode().endswith(tail.rpartition(" [...] ")[2])


def test_many_threads_lose_nothing(logger: logging.Logger, tmp_path: Path) -> None:
    handler = kept(logger, tmp_path, queued=10_000)

    def work(name: int) -> None:
        for number in range(200):
            logger.info("%d %d", name, number, extra={"endpoint": f"e{number % 3}"})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.flush()
    assert sum(len(lines(path)) for path in tmp_path.rglob("*.jsonl")) == 1000


def test_close_writes_what_waits_and_ends_the_thread(logger: logging.Logger, tmp_path: Path) -> None:
    handler = kept(logger, tmp_path)
    for number in range(100):
        logger.info("%d", number, extra=FRAUD)
    handler.close()
    assert len(lines(tmp_path / "fraud" / "v1" / "host-0.jsonl")) == 100
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint-logs"]


# ---------------------------------------------------------------- how long logs are kept


def aged(directory: Path, endpoint: str, size: int, mtime: float) -> Path:
    file = directory / endpoint / "AllTraffic" / "host-0.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(size))
    os.utime(file, (mtime, mtime))
    return file


def test_logs_that_were_silent_too_long_go_with_their_folders(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    old = aged(tmp_path, "old", 10, now - LIMITS.silent_s - 1)
    young = aged(tmp_path, "young", 10, now - LIMITS.silent_s + 1)
    prune(tmp_path, LIMITS, now)
    assert young.exists()
    assert not old.parent.parent.exists()


def test_the_longest_silent_go_where_all_take_too_much(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    files = [aged(tmp_path, f"e{age}", 400, now - age) for age in range(5)]
    foreign = tmp_path / "e0" / "AllTraffic" / "notes.txt"
    foreign.write_bytes(bytes(5000))
    prune(tmp_path, LogLimits(all_bytes=1000), now)
    assert [file.exists() for file in files] == [True, True, False, False, False]
    assert foreign.exists()


def test_a_handler_looks_after_it_now_and_then(logger: logging.Logger, tmp_path: Path) -> None:
    old = aged(tmp_path, "old", 10, 1.0)
    handler = kept(logger, tmp_path)
    logger.info("x", extra=FRAUD)
    handler.flush()
    assert not old.exists()
    old = aged(tmp_path, "old", 10, 1.0)
    logger.info("x", extra={"endpoint": "another"})
    handler.flush()
    assert old.exists()


# ---------------------------------------------------------------- loggers of endpoints


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_endpoints_logger_is_limited_and_tells_what_it_left_out(logger: logging.Logger) -> None:
    handler, clock = Kept(), Clock()
    logger.addHandler(handler)
    log = EndpointLogger(logger, "fraud", per_s=2.0, burst=3, clock=clock)
    for number in range(10):
        log.error("failed %d, 100%%", number, extra={"variant": "v1"})
    assert [record.getMessage() for record in handler.records] == [f"failed {number}, 100%" for number in range(3)]
    clock.now += 0.5
    log.error("100% without arguments")
    log.error("one too many")
    assert handler.records[-1].getMessage() == "100% without arguments (7 records before it were left out)"
    clock.now += 1000
    for number in range(10):
        log.error("again %d", number)
    assert [record.getMessage() for record in handler.records[4:]] == [
        "again 0 (1 records before it were left out)",
        "again 1",
        "again 2",
    ]


def test_its_records_name_the_endpoint_and_the_variant(logger: logging.Logger) -> None:
    handler = Kept()
    logger.addHandler(handler)
    log = EndpointLogger(logger, "fraud")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed", extra={"variant": "v2"})
    EndpointLogger(logger, "other", "v3").info("fine")
    found = [(vars(record)["endpoint"], vars(record)["variant"]) for record in handler.records]
    assert found == [("fraud", "v2"), ("other", "v3")]
    assert handler.records[0].exc_info is not None
    assert {record.filename for record in handler.records} == {"test_endpoint_logs.py"}


def test_a_level_that_is_off_takes_nothing_of_the_limit(logger: logging.Logger) -> None:
    handler = Kept()
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    log = EndpointLogger(logger, "fraud", burst=1, clock=Clock())
    log.info("off")
    log.error("on")
    assert [record.getMessage() for record in handler.records] == ["on"]


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    found = logging.getLogger()
    before, level = found.handlers[:], found.level
    yield found
    for handler in set(found.handlers) - set(before):
        handler.close()
    found.handlers[:] = before
    found.setLevel(level)


def test_configure_adds_it_where_a_directory_is_given(root: logging.Logger, tmp_path: Path) -> None:
    logs.configure("worker 3", "json", "info", tmp_path, "node-a")
    logging.getLogger("serving.model").error("failed", extra=FRAUD)
    for handler in root.handlers:
        handler.flush()
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == ["node-a-3.jsonl"]
    logs.configure("supervisor", "human", "info")
    assert not any(isinstance(handler, EndpointLogs) for handler in root.handlers)
