"""A multi-model container over HTTP: the platform's calls, every way to name one of its models, and what is no name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
import pytest
import tritonclient.http as triton

from tests.frontends.rows.row import JSON, inputs, tensor
from tests.frontends.test_agreement import seen
from tests.frontends.test_paths import HOT, IMPOSSIBLE
from tests.support import many
from tests.support import server as support
from tests.support.server import Server
from tests.support.wire import Answer, Wire, ask, chunked, request

ENDPOINT: Final = "multi-model"

NAMES: Final = {
    "8f14e45fceea167a5a36dedd4bea2543": 2.0,
    "team/a.tar.gz": 3.0,
    "team%2Fa.tar.gz": 4.0,
    "a:b": 5.0,
    "..": 6.0,
    "é 😀": 7.0,
    "versions": 8.0,
    "x" * 1024: 9.0,
}
"""The models that are loaded, by the number that each multiplies by."""

INSTANCES: Final = orjson.dumps(many.ROWS)
V2: Final = orjson.dumps(inputs(tensor(shape=(2, 4), data=many.ROWS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models' files, a folder each; `broken` holds none."""
    made = tmp_path_factory.mktemp("models")
    for scale in (*NAMES.values(), 10.0):
        (made / str(scale)).mkdir()
        many.graph(made / str(scale), scale)
    (made / "broken").mkdir()
    (made / "broken" / "model.onnx").write_bytes(b"no graph")
    (made / "big").mkdir()
    many.graph(made / "big", 1.0, weights=64 * 1024 * 1024)
    return made


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A multi-model container with the models of `NAMES`, and room for little more."""
    env = {"SERVING_MULTI_MODEL": "true", "SERVING_ALLOW_PATHS": str(folder), "SERVING_MODEL_CACHE_BYTES": str(2**25)}
    with support.running(state_dir=tmp_path_factory.mktemp("server") / "state", env=env) as running:
        for name, scale in NAMES.items():
            answer = add(running, name, folder / str(scale))
            assert answer.status == 200, answer
        yield running


def call(server: Server, method: str, path: str, body: bytes | None = None, *fields: str) -> Answer:
    """The answer to a request; POST has a length."""
    has_length = body is not None or method == "POST"
    return ask(server.port, request(path, body or b"", *fields, method=method, length=has_length), method)


def add(server: Server, name: str, url: Path) -> Answer:
    """The answer to `POST /models`."""
    return call(server, "POST", "/models", orjson.dumps({"model_name": name, "url": str(url)}), JSON)


def listed(server: Server, query: str = "") -> Any:
    """The names of `GET /models`, and the token of the next page."""
    page = call(server, "GET", f"/models{query}").json()
    return [model["modelName"] for model in page["models"]], page.get("nextPageToken")


def infer(server: Server, path: str) -> Any:
    """What a v2 model answers, and under which name."""
    answer = call(server, "POST", path, V2)
    assert answer.status == 200, answer
    fields = answer.json()
    return fields["model_name"], fields["outputs"][0]["data"]


def flat(scale: float) -> list[float]:
    """The answer of a model, in v2's words."""
    return [value for row in many.answer(scale) for value in row]


# ---------------------------------------------------------------- the platform's calls


def test_a_model_comes_and_goes(server: Server, folder: Path) -> None:
    assert add(server, "new", folder / "10.0").json() == {"status": 'Model "new" loaded'}
    assert call(server, "GET", "/models/new").json() == {"modelName": "new", "modelUrl": str(folder / "10.0")}
    assert call(server, "POST", "/models/new/invoke", INSTANCES, JSON).json() == many.answer(10)
    again = add(server, "new", folder / "10.0")
    assert (again.status, again.json()["type"]) == (409, "ModelExists")
    assert call(server, "DELETE", "/models/new").json() == {"status": 'Model "new" unloaded'}
    for method, path in (("GET", "/models/new"), ("DELETE", "/models/new"), ("POST", "/models/new/invoke")):
        gone = call(server, method, path, INSTANCES if method == "POST" else None, JSON)
        assert (gone.status, gone.json()["code"], gone.json()["type"]) == (404, 404, "TargetMissing")


def test_models_are_listed_in_pages(server: Server) -> None:
    names, token = listed(server)
    assert (names, token) == (sorted(NAMES), None)
    names, token = listed(server, "?limit=3")
    assert len(names) == 3
    while token:
        page, token = listed(server, f"?limit=3&next_page_token={quote(token, safe='')}")
        names += page
    assert names == sorted(NAMES)


@pytest.mark.parametrize("query", ["?limit=0", "?limit=-1", "?limit=x", "?limit=%D9%A4", "?limit=99999"])
def test_a_limit_that_is_none(server: Server, query: str) -> None:
    answer = call(server, "GET", f"/models{query}")
    assert answer.status == 400
    assert "limit" in answer.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"model_name":"a"}', b'{"model_name":"","url":"/x"}', b'{"model_name":"a\\u0000","url":"/x"}'],
)
def test_a_body_that_names_no_model(server: Server, body: bytes) -> None:
    answer = call(server, "POST", "/models", body, JSON)
    assert (answer.status, answer.json()["type"]) == (400, "BadRequest")
    assert listed(server)[0] == sorted(NAMES)


def test_a_body_that_is_too_large(server: Server) -> None:
    answer = call(server, "POST", "/models", b" " * 100_000, JSON)
    assert (answer.status, answer.json()["type"]) == (413, "TooLarge")


def test_a_model_that_does_not_load(server: Server, folder: Path) -> None:
    answer = add(server, "broken", folder / "broken")
    assert (answer.status, answer.json()["type"]) == (500, "LoadFailed")
    assert call(server, "GET", "/models/broken").status == 404


def test_a_model_that_does_not_fit(server: Server, folder: Path) -> None:
    answer = add(server, "big", folder / "big")
    assert (answer.status, answer.json()["code"], answer.json()["type"]) == (507, 507, "InsufficientMemory")
    assert call(server, "GET", "/models/big").status == 404


def test_the_container_is_well_with_no_model_at_all(tmp_path: Path) -> None:
    with support.running(state_dir=tmp_path / "state", env={"SERVING_MULTI_MODEL": "true"}) as empty:
        assert call(empty, "GET", "/ping").status == 200
        assert listed(empty) == ([], None)
        assert call(empty, "POST", "/models/a/invoke", INSTANCES, JSON).status == 404


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        ("PUT", "/models", "GET and POST"),
        ("POST", "/models/versions", "GET and DELETE"),
        ("GET", "/models/versions/invoke", "POST"),
    ],
)
def test_other_methods(server: Server, method: str, path: str, known: str) -> None:
    answer = call(server, method, path)
    assert answer.status == 405
    assert f"answers {known}, not {method}" in answer.message


# ---------------------------------------------------------------- every way to name a model

named = pytest.mark.parametrize(("name", "scale"), NAMES.items(), ids=[name[:40] for name in NAMES])


@named
def test_by_the_containers_own_route(server: Server, name: str, scale: float) -> None:
    path = f"/models/{quote(name, safe='')}"
    assert call(server, "POST", f"{path}/invoke", INSTANCES, JSON).json() == many.answer(scale)
    assert call(server, "GET", path).json()["modelName"] == name


@named
def test_by_a_v2_name(server: Server, name: str, scale: float) -> None:
    whole = f"{ENDPOINT}:{name}"
    for colon in (":", "%3A", "%3a"):
        path = f"/v2/models/{ENDPOINT}{colon}{quote(name, safe='')}"
        for versioned in (path, f"{path}/versions/1"):
            assert infer(server, f"{versioned}/infer") == (whole, flat(scale))
            metadata = call(server, "GET", versioned).json()
            assert (metadata["name"], metadata["versions"]) == (whole, ["1"])
            assert call(server, "GET", f"{versioned}/ready").json() == {"name": whole, "ready": True}
        answer = call(server, "POST", f"{path}/generate", orjson.dumps({"x": many.ROWS}), JSON)
        assert answer.status == 200, answer


@named
def test_by_tritons_client(server: Server, name: str, scale: float) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        whole = f"{ENDPOINT}:{name}"
        assert client.is_model_ready(whole)
        assert client.get_model_metadata(whole)["name"] == whole


@pytest.mark.parametrize("name", [name for name in NAMES if name.isascii()], ids=lambda name: name[:40])
def test_by_header(server: Server, name: str) -> None:
    expected = many.answer(NAMES[name])
    for path in ("/invocations", f"/endpoints/{ENDPOINT}/invocations", f"/models/{quote(name, safe='')}/invoke"):
        answer = call(server, "POST", path, INSTANCES, JSON, f"X-Amzn-SageMaker-Target-Model: {name}")
        assert answer.json() == expected, path


def test_the_batches_of_a_model(server: Server) -> None:
    infer(server, f"/v2/models/{ENDPOINT}:team%2Fa.tar.gz/infer")
    answer = call(server, "GET", f"/debug/models/{ENDPOINT}:team%2Fa.tar.gz/batches")
    assert answer.json()
    assert all(batch["rows"] for batch in answer.json())
    assert call(server, "GET", f"/debug/models/{ENDPOINT}:none/batches").json() == []
    assert call(server, "GET", "/debug/models/none:none/batches").status == 404
    assert call(server, "GET", f"/debug/models/{ENDPOINT}/batches").status == 400


def test_the_page_says_how_to_call_it(server: Server) -> None:
    page = call(server, "GET", "/").body.decode()
    assert f"/v2/models/{ENDPOINT}:TARGET/infer" in page
    assert "x-amzn-sagemaker-target-model: TARGET" in page


# ---------------------------------------------------------------- what names none


def test_the_endpoint_itself_is_ready_and_has_no_metadata(server: Server) -> None:
    assert call(server, "GET", f"/v2/models/{ENDPOINT}/ready").json() == {"name": ENDPOINT, "ready": True}
    for path in (f"/v2/models/{ENDPOINT}", f"/v2/models/{ENDPOINT}/versions/1"):
        answer = call(server, "GET", path)
        assert answer.status == 400
        assert f"{ENDPOINT}:MODEL" in answer.message
    assert call(server, "GET", f"/v2/models/{ENDPOINT}/versions/1/ready").status == 404


def test_a_model_that_is_not_there(server: Server) -> None:
    path = f"/v2/models/{ENDPOINT}:none"
    assert call(server, "GET", f"{path}/ready").json() == {"name": f"{ENDPOINT}:none", "ready": False}
    for method, where in (("GET", path), ("POST", f"{path}/infer"), ("POST", f"{path}/generate_stream")):
        assert call(server, method, where, V2 if method == "POST" else None).status == 404
    assert call(server, "GET", f"/v2/models/{ENDPOINT}:team%2Fa.tar.gz/versions/2").status == 404


def test_two_names_in_one_request(server: Server) -> None:
    answer = call(server, "POST", "/models/versions/invoke", INSTANCES, JSON, "X-Amzn-SageMaker-Target-Model: ..")
    assert answer.status == 400
    assert "name one of them" in answer.message


PATHS = [
    *(path.replace("fraud", ENDPOINT).encode("latin-1") for path, _ in (*HOT, *IMPOSSIBLE) if " " not in path),
    *(f"/v2/models/{ENDPOINT}:{quote(name, safe='')}/infer".encode() for name in NAMES),
    *(f"/v2/models/{quote(f'{ENDPOINT}:{name}')}/infer".encode() for name in NAMES),
    *(f"/models/{quote(name, safe='')}/invoke".encode() for name in NAMES),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:60].decode("latin-1"))
def test_the_lane_and_the_app_agree(server: Server, path: bytes) -> None:
    plain = request(path, V2, JSON)
    parts = request(path, b"", JSON, "Transfer-Encoding: chunked", length=False) + chunked(V2, 17)
    with Wire(server.port) as lane, Wire(server.port) as app:
        lane.send(plain)
        parsed = lane.answer()
        app.send(parts)
        assert seen(app.answer()) == seen(parsed)
        if parsed.status == 200:
            lane.send(plain)
            assert seen(lane.answer()) == seen(parsed)
    assert parsed.status in (200, 400, 404, 405)


def test_random_paths(server: Server) -> None:
    """Whatever is named: a well-formed answer, a model's own where it is one, and nobody else notices."""
    chance = random.Random(5)
    pieces = [
        *(b"/v2/models/", b"/models/", b"/endpoints/", b"/debug/models/", b"/v2/repository/models/", b"/invocations"),
        *(
            b"/infer",
            b"/invoke",
            b"/ready",
            b"/load",
            b"/batches",
            b"/versions/",
            b"/generate",
            b"1",
            b"a:b",
            b"versions",
        ),
        *(
            ENDPOINT.encode(),
            ENDPOINT.encode() + b":",
            b":",
            b"%3A",
            b"%2F",
            b"%252F",
            b"/",
            b"..",
            b"%00",
            b"%0a",
            b"%",
        ),
        *(b"%2", b"%ff", b"\xc3\xa9", b"%C3%A9", b"#", b"?", b"&", b";", b"+", b"x" * 1025),
    ]
    starts = [b"/v2/models/" + ENDPOINT.encode() + b":", b"/models/", b"/"]
    with Wire(server.port) as neighbour:
        for turn in range(600):
            path = chance.choice(starts) + b"".join(chance.choices(pieces, k=chance.randrange(1, 6)))
            method = chance.choice(["POST", "POST", "POST", "GET"])
            with Wire(server.port) as wire:
                wire.offer((request(path, V2 if method == "POST" else b"", JSON, method=method),))
                answer = wire.answer(method)
                assert answer.status < 500 or answer.status in (501, 503), (path, answer)
                assert answer.status < 400 or answer.json()
            if turn % 20 == 0:
                neighbour.send(request("/models/versions/invoke", INSTANCES, JSON))
                assert neighbour.answer().json() == many.answer(8)
    assert listed(server)[0] == sorted(NAMES)
    assert "Traceback" not in server.output
    assert "ended with" not in server.output
