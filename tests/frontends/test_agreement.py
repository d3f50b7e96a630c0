"""One request, three ways through the server: parsed by the lane, recognised by it, and chunked through the app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.frontends.rows.row import inputs, tensor
from tests.support.frontend_models import ECHOES, FEATURES
from tests.support.server import Server
from tests.support.wire import Answer, Closed, Wire, chunked, request

MODELS: Final = ("linear", "records", "pair", "cube", "index", *(f"echo-{datatype.lower()}" for datatype in ECHOES))
TYPES: Final = ("application/json", "", "text/csv", "application/x-npy", "application/octet-stream", "image/png")
ACCEPTS: Final = (
    "",
    "application/json",
    "text/csv",
    "application/x-npy",
    "application/octet-stream",
    "a/b;q=x, */*;q=0.1",
)

numbers = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 1, 1.0, 0.5, -1, 65520, 1e39]),
)
scalars = st.one_of(numbers, numbers, st.booleans(), st.none(), st.text(max_size=5))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["x", "a", "b", "instances", "inputs", "features", "b64", *FEATURES]), inner, max_size=4
        ),
    ),
    max_leaves=12,
)
row = st.one_of(
    st.lists(numbers, min_size=4, max_size=4),
    st.lists(numbers, min_size=2, max_size=2),
    st.lists(scalars, max_size=5),
    st.fixed_dictionaries(dict.fromkeys(FEATURES, numbers)),
    st.fixed_dictionaries(
        {"a": st.lists(numbers, min_size=2, max_size=2), "b": st.lists(st.integers(-9, 9), min_size=1, max_size=1)}
    ),
    trees,
)


@st.composite
def v2_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Documents that are v2's, or nearly."""
    tensors = []
    for name in draw(st.sampled_from([("x",), ("a", "b"), ("i",), ("x", "x"), ()])):
        shape = draw(
            st.one_of(st.sampled_from([[1, 4], [2, 4], [1, 2], [1, 1], [1]]), st.lists(st.integers(-1, 4), max_size=3))
        )
        data = draw(st.one_of(st.lists(numbers, min_size=1, max_size=8), trees))
        datatype = draw(st.sampled_from([*ECHOES, "FLOAT"]))
        tensors.append(tensor(name, datatype, shape, data=data))
    extra: dict[str, Any] = draw(
        st.one_of(
            st.just({}),
            st.just({"id": "7"}),
            st.just({"outputs": [{"name": "y"}]}),
            st.just({"parameters": {"timeout": -1}}),
        )
    )
    return inputs(*tensors, **extra)


def json_of(document: Any) -> bytes:
    """JSON as Python's own writer does it, so that numbers past 64 bits come too."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return (
            repr(document)
            .replace("'", '"')
            .replace("None", "null")
            .replace("True", "true")
            .replace("False", "false")
            .encode(errors="replace")
        )


bodies = st.one_of(
    st.lists(row, max_size=3).map(lambda rows: json_of({"instances": rows})),
    st.builds(lambda key, value: json_of({key: value}), st.sampled_from(["inputs", "instances"]), trees),
    trees.map(json_of),
    v2_documents().map(json_of),
    v2_documents().map(json_of),
    st.lists(st.lists(numbers.map(str), min_size=1, max_size=5).map(",".join), max_size=3)
    .map("\n".join)
    .map(str.encode),
    st.binary(max_size=64),
)


class Ways:
    """The three connections; opened anew where the server closed one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lane = Wire(port)
        self._app = Wire(port)

    def lane(self, sent: bytes) -> Answer:
        """The answer to a request as it is."""
        self._lane, answer = self._ask(self._lane, sent)
        return answer

    def app(self, sent: bytes) -> Answer:
        """The answer to the same request in chunks."""
        self._app, answer = self._ask(self._app, sent)
        return answer

    def _ask(self, wire: Wire, sent: bytes) -> tuple[Wire, Answer]:
        try:
            wire.send(sent)
            return wire, wire.answer()
        except (Closed, BrokenPipeError):
            wire.socket.close()
            wire = Wire(self._port)
            wire.send(sent)
            return wire, wire.answer()

    def close(self) -> None:
        """Ends both."""
        self._lane.socket.close()
        self._app.socket.close()


@pytest.fixture(scope="module")
def ways(server: Server) -> Iterator[Ways]:
    """The ways through the module's server."""
    found = Ways(server.port)
    yield found
    found.close()


def seen(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What must agree: all but the time and the request's own id."""
    return (
        answer.status,
        {name: value for name, value in answer.headers.items() if name not in {"date", "x-amzn-requestid"}},
        answer.body,
    )


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    model=st.sampled_from(MODELS),
    face=st.sampled_from(["/endpoints/{}/invocations", "/v2/models/{}/infer", "/invocations"]),
    content_type=st.one_of(st.just("application/json"), st.sampled_from(TYPES)),
    accept=st.one_of(st.just(""), st.sampled_from(ACCEPTS)),
    body=bodies,
    cut=st.integers(1, 40),
)
def test_the_ways_agree(
    ways: Ways, model: str, face: str, content_type: str, accept: str, body: bytes, cut: int
) -> None:
    fields = [f"Content-Type: {content_type}"] if content_type else []
    fields += [f"Accept: {accept}"] if accept else []
    path = face.format(model)
    plain = request(path, body, *fields)
    in_chunks = request(path, b"", *fields, "Transfer-Encoding: chunked", length=False) + chunked(body, cut)
    parsed = seen(ways.lane(plain))
    assert seen(ways.lane(plain)) == parsed
    assert seen(ways.app(in_chunks)) == parsed
    assert parsed[0] < 500 or model == "index"
