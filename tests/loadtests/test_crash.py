"""The crash run's own judgement, from made-up calls and looks, and a short run against a real server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from loadtests.control import calls
from loadtests.control.calls import Raw
from loadtests.crash import ledger, marked
from loadtests.crash.inspection import Inspection, left_over
from loadtests.crash.instance import Instance
from loadtests.crash.ledger import Change, Fact, Ledger, Resource
from loadtests.crash.marked import Marked
from loadtests.crash.plan import draw
from loadtests.crash.run import Run
from loadtests.crash.traffic import Caller, Watch

ONE, TWO = Fact("c-1", Marked("file:///1", 1)), Fact("c-2", Marked("file:///2", 2))
CREATE, OTHER = ledger.create("CreateEndpoint", ONE), ledger.create("CreateEndpoint", TWO)
DELETE = ledger.delete("DeleteEndpoint")
UPDATE = ledger.update("UpdateEndpoint", lambda _: TWO)
PRESENT = 'Cannot create already existing endpoint "arn".'
ABSENT = 'Could not find endpoint "arn".'


@pytest.fixture
def book() -> Ledger:
    return Ledger()


@pytest.fixture
def endpoint(book: Ledger) -> Resource:
    return book.resource("endpoint", "e")


def acknowledge(book: Ledger, resource: Resource, change: Change) -> None:
    book.acknowledged(resource, change, book.begin(resource, change))


def lose(book: Ledger, resource: Resource, change: Change) -> None:
    book.begin(resource, change)
    book.lost(resource, change)


def refuse(book: Ledger, resource: Resource, change: Change, message: str) -> None:
    book.refused(resource, change, book.begin(resource, change), message)


def test_what_is_acknowledged_is_certain(book: Ledger, endpoint: Resource) -> None:
    acknowledge(book, endpoint, CREATE)
    assert endpoint.fact == ONE
    acknowledge(book, endpoint, UPDATE)
    assert endpoint.fact == TWO
    acknowledge(book, endpoint, DELETE)
    assert endpoint.absent
    assert not book.violations


def test_a_call_without_an_answer_leaves_both(book: Ledger, endpoint: Resource) -> None:
    lose(book, endpoint, CREATE)
    assert endpoint.possible == {None, ONE}
    lose(book, endpoint, UPDATE)
    assert endpoint.possible == {None, ONE, TWO}
    book.seen(endpoint, lambda state: state is not None, "is listed")
    assert endpoint.possible == {ONE, TWO}
    acknowledge(book, endpoint, DELETE)
    assert endpoint.absent
    assert not book.violations


def test_a_refusal_tells_what_is_there(book: Ledger, endpoint: Resource) -> None:
    lose(book, endpoint, CREATE)
    refuse(book, endpoint, OTHER, PRESENT)
    assert endpoint.fact == ONE
    lose(book, endpoint, DELETE)
    refuse(book, endpoint, DELETE, ABSENT)
    assert endpoint.absent
    assert not book.violations


def test_what_is_lost_is_found(book: Ledger, endpoint: Resource) -> None:
    acknowledge(book, endpoint, CREATE)
    book.seen(endpoint, lambda state: state is None, "is not listed")
    (violation,) = book.violations
    assert "endpoint e is not listed, but by what was acknowledged it is Fact" in violation


def test_what_comes_back_is_found(book: Ledger, endpoint: Resource) -> None:
    acknowledge(book, endpoint, CREATE)
    acknowledge(book, endpoint, DELETE)
    book.settled(endpoint, in_service=False)
    refuse(book, endpoint, CREATE, PRESENT)
    (violation,) = book.violations
    assert "there is none, was refused: Cannot create" in violation


def test_a_name_that_is_still_being_deleted_may_be_refused(book: Ledger, endpoint: Resource) -> None:
    acknowledge(book, endpoint, CREATE)
    acknowledge(book, endpoint, DELETE)
    refuse(book, endpoint, CREATE, PRESENT)
    assert endpoint.absent
    assert not book.violations


def test_a_second_create_must_not_be_acknowledged(book: Ledger, endpoint: Resource) -> None:
    acknowledge(book, endpoint, CREATE)
    acknowledge(book, endpoint, OTHER)
    (violation,) = book.violations
    assert "was acknowledged, but" in violation


@pytest.mark.parametrize("message", [ABSENT, "Rate of something", "Member must have length"])
def test_a_refusal_for_a_wrong_reason_is_found(book: Ledger, endpoint: Resource, message: str) -> None:
    acknowledge(book, endpoint, CREATE)
    refuse(book, endpoint, UPDATE, message)
    (violation,) = book.violations
    assert violation.endswith(f"was refused: {message}")
    assert endpoint.fact == ONE


def test_either_side_of_an_update_may_answer_until_it_is_settled(book: Ledger, endpoint: Resource) -> None:
    acknowledge(book, endpoint, CREATE)
    book.settled(endpoint, in_service=True)
    assert endpoint.answers == {1}
    acknowledge(book, endpoint, UPDATE)
    assert endpoint.answers == {1, 2}
    assert endpoint.in_service
    book.settled(endpoint, in_service=True)
    assert endpoint.answers == {2}
    book.begin(endpoint, DELETE)
    assert not endpoint.in_service


def test_calls_are_counted_and_known_while_they_last(book: Ledger, endpoint: Resource) -> None:
    before = book.begin(endpoint, CREATE)
    assert book.under_way() == ["CreateEndpoint"]
    book.acknowledged(endpoint, CREATE, before)
    assert book.under_way() == []
    lose(book, endpoint, UPDATE)
    assert book.calls == {("CreateEndpoint", "acknowledged"): 1, ("UpdateEndpoint", "no answer"): 1}


def test_a_seed_gives_the_same_kills() -> None:
    kills = list(draw(200, seed=7))
    assert kills == list(draw(200, seed=7))
    assert kills != list(draw(200, seed=8))
    assert sum(kill.count for kill in kills) == 200
    assert {kill.victim for kill in kills} == {"supervisor", "worker", "all workers"}
    assert any(kill.starting_s for kill in kills)


def test_a_marked_answer_is_read_strictly() -> None:
    assert marked.read(b'{"predictions": [[7.0, 7.0, 7.0, 7.0]]}') == 7
    for body in (b"", b"{}", b'{"predictions": [[7, 7, 7, 8]]}', b'{"predictions": [[7, 7]]}'):
        with pytest.raises(ValueError, match="not an answer"):
            marked.read(body)


def test_what_is_left_on_disk_is_found(tmp_path: Path) -> None:
    assert left_over(tmp_path / "nowhere", []) == []
    for name, url in (("kept", "s3://b/kept"), ("gone", "s3://b/gone"), (".part-x", "s3://b/kept")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "artifact.json").write_text(json.dumps({"source": {"url": url}}))
    (tmp_path / "half").mkdir()
    assert left_over(tmp_path, {"s3://b/kept"}) == [".part-x (s3://b/kept)", "gone (s3://b/gone)", "half"]


def test_a_process_that_is_left_is_found_and_ended(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(instance.state_dir)], stdin=subprocess.PIPE) as left:
        (told,) = instance.wait_gone(0.0)
        assert told.startswith(f"{left.pid} ")
        assert left.wait(10) == -signal.SIGKILL
    assert instance.wait_gone() == []


def test_a_look_finds_what_does_not_agree(tmp_path: Path, book: Ledger) -> None:
    instance = Instance(tmp_path, workers=1, with_s3=False)
    url = marked.write(instance.models, 7).as_uri()
    good, wrong = Marked(url, 7), Marked(url, 8)
    try:
        instance.start()
        instance.wait_ready()
        with Raw(instance.port) as raw:
            for name in ("same", "other", "unknown"):
                raw.call("CreateModel", **calls.model(name, "onnx", url))
                raw.call("CreateEndpointConfig", **calls.config(name, name))
                raw.call("CreateEndpoint", EndpointName=name, EndpointConfigName=name)
            for name, data in (("same", good), ("other", wrong), ("lost", good)):
                config = ledger.create("Create", Fact(name, data))
                acknowledge(book, book.resource("model", name), ledger.create("Create", Fact(url, data)))
                acknowledge(book, book.resource("endpoint-config", name), config)
                acknowledge(book, book.resource("endpoint", name), config)
            Inspection(instance, book, raw).run()
    finally:
        instance.end()
    found = sorted(book.violations)
    assert [text.partition(", but")[0] for text in found if "holds" not in text] == [
        "endpoint lost is not listed",
        "endpoint other is answered by model 7",
        "endpoint unknown is listed",
        "endpoint-config lost is not listed",
        "endpoint-config unknown is listed",
        "model lost is not listed",
        "model unknown is listed",
    ]
    assert any("holds ['other', 'same', 'unknown'], in service is ['other', 'same']" in text for text in found)


def test_an_answer_that_a_kill_cut_short_says_nothing(book: Ledger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            for _ in range(2):
                with listener.accept()[0] as caller:
                    caller.recv(65536)
                    caller.sendall(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: 600\r\n\r\n"
                    )

        server = threading.Thread(target=cut)
        server.start()
        with closing(calls.client("sagemaker", listener.getsockname()[1], connections=1)) as stock:
            caller = Caller(0, stock, book, Watch(), [Marked("file:///1", 1)], seed=1)
            found = book.resource("endpoint", "e-0-0")
            acknowledge(book, found, CREATE)
            caller.look(found)
            caller.look(found)
        server.join(10)
    assert not book.violations


def test_a_few_kills_break_no_promise(tmp_path: Path) -> None:
    instance = Instance(tmp_path, workers=2, with_s3=False)
    run = Run(instance, kills=3, seed=19, limit_s=60)
    try:
        run.run()
    finally:
        instance.end()
    assert not run.ledger.violations
    acknowledged = sum(count for (_, how), count in run.ledger.calls.items() if how == "acknowledged")
    assert acknowledged > 10
    assert run.killed == 3
