"""tritonclient's three HTTP clients, unmodified, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import serving
from tests.acceptance.conftest import echo_of
from tests.support.onnx_models import ELEMENT_TYPES
from tests.support.server import Server

Array = np.ndarray[Any, Any]
Infer = Callable[..., triton.InferResult]

SAMPLES: dict[str, Array] = {
    "BOOL": np.array([[True, False, True]]),
    "FP16": np.array([[0.5, -65504.0, 6e-8]], np.float16),
    "FP32": np.array([[0.1, -3.4e38, 1e-45], [1, 2, 3]], np.float32),
    "FP64": np.array([[0.1, -1.7e308, 5e-324]], np.float64),
    "BF16": np.array([[0.5, -3.0, 1e30]], ml_dtypes.bfloat16),
    "BYTES": np.array([["plain", "", "snow \u2603 \U0001f600"]], np.object_),
    **{
        name: np.array([[np.iinfo(dtype).min, 0, np.iinfo(dtype).max]], dtype)
        for name, dtype in [
            ("UINT8", np.uint8),
            ("UINT16", np.uint16),
            ("UINT32", np.uint32),
            ("UINT64", np.uint64),
            ("INT8", np.int8),
            ("INT16", np.int16),
            ("INT32", np.int32),
            ("INT64", np.int64),
        ]
    },
}


@pytest.fixture
def client(model_server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{model_server.port}", concurrency=4) as client:
        yield client


async def aio(server: Server, call: Callable[[triton_aio.InferenceServerClient], Any]) -> Any:
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        return await call(client)


@pytest.fixture(params=["infer", "async_infer", "aio"])
def infer(request: pytest.FixtureRequest, model_server: Server) -> Iterator[Infer]:
    """`infer` of the synchronous client, of the same with `async_infer`, and of the asyncio client."""
    if request.param == "aio":
        yield lambda *args, **kwargs: asyncio.run(aio(model_server, lambda client: client.infer(*args, **kwargs)))
        return
    with triton.InferenceServerClient(f"127.0.0.1:{model_server.port}") as client:
        if request.param == "infer":
            yield client.infer
        else:
            yield lambda *args, **kwargs: client.async_infer(*args, **kwargs).get_result()


def tensor(name: str, value: Array, *, binary: bool = True, datatype: str | None = None) -> triton.InferInput:
    made = triton.InferInput(name, list(value.shape), datatype or np_to_triton_dtype(value.dtype))
    made.set_data_from_numpy(value, binary_data=binary)
    return made


def wanted(*names: str, binary: bool = True, class_count: int = 0) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary, class_count=class_count) for name in names]


def same(got: Array, expected: Array) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert got.tolist() == expected.tolist()


# ---------------------------------------------------------------------- what is asked before inference


def test_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "serving"
    assert metadata["version"] == serving.__version__
    assert "binary_tensor_data" in metadata["extensions"]


def test_model(client: triton.InferenceServerClient) -> None:
    assert client.is_model_ready("arithmetic")
    assert client.is_model_ready("limited", "3")
    assert not client.is_model_ready("limited", "4")
    assert not client.is_model_ready("no-such")
    assert client.get_model_metadata("arithmetic") == {
        "name": "arithmetic",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "b", "datatype": "INT64", "shape": [-1, 2]},
        ],
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "product", "datatype": "FP32", "shape": [-1, 2]},
        ],
    }
    assert client.get_model_metadata("limited", "3")["versions"] == ["3"]


def test_the_asyncio_client_asks_the_same(model_server: Server, client: triton.InferenceServerClient) -> None:
    async def ask(other: triton_aio.InferenceServerClient) -> list[Any]:
        return [
            await other.is_server_live(),
            await other.is_server_ready(),
            await other.is_model_ready("arithmetic"),
            await other.is_model_ready("no-such"),
            await other.get_server_metadata(),
            await other.get_model_metadata("arithmetic"),
        ]

    expected = [True, True, True, False, client.get_server_metadata(), client.get_model_metadata("arithmetic")]
    assert asyncio.run(aio(model_server, ask)) == expected


def test_metadata_of_an_unknown_model(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="unknown model: 'no-such' is not found") as caught:
        client.get_model_metadata("no-such")
    assert caught.value.status() == "404"


# ---------------------------------------------------------------------- tensors


def test_every_datatype_has_a_sample() -> None:
    assert set(SAMPLES) == set(ELEMENT_TYPES)


FORMS = [
    pytest.param(
        datatype,
        binary_in,
        binary_out,
        id=f"{datatype}-{'binary' if binary_in else 'json'}-{'binary' if binary_out else 'json'}",
    )
    for datatype in SAMPLES
    for binary_in in (True, False)
    for binary_out in (True, False)
    if binary_in or datatype != "BF16"  # which the client only sends as binary
]


@pytest.mark.parametrize(("datatype", "binary_in", "binary_out"), FORMS)
def test_every_datatype(infer: Infer, datatype: str, binary_in: bool, binary_out: bool) -> None:
    value = SAMPLES[datatype]
    result = infer(
        echo_of(datatype),
        [tensor("x", value, binary=binary_in, datatype=datatype)],
        outputs=wanted("y", binary=binary_out),
    )
    got = result.as_numpy("y")
    if datatype == "BYTES" and binary_out:
        assert got.tolist() == [[text.encode() for text in row] for row in value]
    else:
        same(got, value)
    assert result.get_output("y")["datatype"] == datatype
    assert ("binary_data_size" in result.get_output("y").get("parameters", {})) == binary_out


def test_the_default_output_is_as_the_client_expects(infer: Infer) -> None:
    result = infer(echo_of("FP32"), [tensor("x", SAMPLES["FP32"])])
    same(result.as_numpy("y"), SAMPLES["FP32"])


@pytest.mark.parametrize("binary", [True, False])
def test_strings_as_encoded_bytes(infer: Infer, binary: bool) -> None:
    for value in (np.array([[b"raw", "sn\u00f6".encode()]], np.object_), np.array([[b"fixed", b"width"]])):
        result = infer("echo-bytes", [tensor("x", value, binary=binary)], outputs=wanted("y", binary=True))
        assert result.as_numpy("y").tolist() == value.tolist()


def test_bytes_that_are_no_text_are_refused_by_name(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match="element 1 of input 'x' is not UTF-8"):
        infer("echo-bytes", [tensor("x", np.array([[b"ok", b"\xff\xfe"]], np.object_))])


def test_an_empty_string_tensor_element_and_a_long_one(infer: Infer) -> None:
    value = np.array([["", "x" * 100_000]], np.object_)
    assert infer("echo-bytes", [tensor("x", value)]).as_numpy("y").tolist() == [[b"", b"x" * 100_000]]


@pytest.mark.parametrize("binary_a", [True, False])
@pytest.mark.parametrize("binary_b", [True, False])
def test_several_tensors_of_mixed_forms(infer: Infer, binary_a: bool, binary_b: bool) -> None:
    a, b = np.array([[1.5, 2], [3, 4]], np.float32), np.array([[2, 3], [4, 5]], np.int64)
    inputs = [tensor("a", a, binary=binary_a), tensor("b", b, binary=binary_b)]
    for ordered in (inputs, inputs[::-1]):
        outputs = wanted("product", binary=binary_b) + wanted("sum", binary=binary_a)
        result = infer("arithmetic", ordered, outputs=outputs)
        same(result.as_numpy("sum"), a + b.astype(np.float32))
        same(result.as_numpy("product"), a * b.astype(np.float32))


def test_only_the_outputs_that_were_asked_for(infer: Infer) -> None:
    inputs = [tensor("a", np.ones((1, 2), np.float32)), tensor("b", np.ones((1, 2), np.int64))]
    result = infer("arithmetic", inputs, outputs=wanted("product"))
    assert [output["name"] for output in result.get_response()["outputs"]] == ["product"]
    assert result.as_numpy("sum") is None


# aiohttp, on behalf of the asyncio client, which hands it plain bytes.
@pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning")
def test_big_tensors(infer: Infer) -> None:
    value = np.arange(1_500_000, dtype=np.float32).reshape(3, -1)
    result = infer("echo-fp32", [tensor("x", value)], outputs=wanted("y"))
    np.testing.assert_array_equal(result.as_numpy("y"), value)


@pytest.mark.parametrize("binary", [True, False])
def test_classification(infer: Infer, binary: bool) -> None:
    value = np.array([[0.25, 4, 0, 1], [8, 0, -1, 2]], np.float32)
    result = infer("limited", [tensor("x", value)], outputs=wanted("y", class_count=2, binary=binary))
    got = [[text.decode() if binary else text for text in row] for row in result.as_numpy("y").tolist()]
    parts = [[text.split(":") for text in row] for row in got]
    assert [[(float(score), int(index), label) for score, index, label in row] for row in parts] == [
        [(4.0, 1, "east"), (1.0, 3, "west")],
        [(8.0, 0, "north"), (2.0, 3, "west")],
    ]


# ---------------------------------------------------------------------- what goes with a request


def test_the_request_id_comes_back(infer: Infer) -> None:
    result = infer("echo-fp32", [tensor("x", SAMPLES["FP32"])], request_id="order 66/\u00e4")
    assert result.get_response()["id"] == "order 66/\u00e4"
    assert "id" not in infer("echo-fp32", [tensor("x", SAMPLES["FP32"])]).get_response()


def test_the_version(infer: Infer) -> None:
    value = np.ones((1, 4), np.float32)
    result = infer("limited", [tensor("x", value)], model_version="3")
    assert result.get_response()["model_version"] == "3"
    with pytest.raises(InferenceServerException, match="version 4 is not found; it serves version 3"):
        infer("limited", [tensor("x", value)], model_version="4")


def test_a_model_in_the_layout_of_triton(infer: Infer, client: triton.InferenceServerClient) -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = infer("from_triton", [tensor("x", value)], model_version="2")
    same(result.as_numpy("y"), value)
    assert result.get_response()["model_version"] == "2"
    assert client.get_model_metadata("from_triton")["versions"] == ["2"]


def test_priority(infer: Infer) -> None:
    value = np.ones((1, 4), np.float32)
    for priority in (0, 1, 3):
        same(infer("limited", [tensor("x", value)], priority=priority).as_numpy("y"), value)
    with pytest.raises(InferenceServerException, match="priority 4 is over the 3 levels of model 'limited'"):
        infer("limited", [tensor("x", value)], priority=4)


def test_timeout(infer: Infer) -> None:
    value = np.ones((1, 4), np.float32)
    same(infer("limited", [tensor("x", value)], timeout=10_000_000).as_numpy("y"), value)


def test_custom_parameters_and_headers(infer: Infer) -> None:
    value = np.ones((1, 4), np.float32)
    result = infer("limited", [tensor("x", value)], parameters={"mine": "kept"}, headers={"X-Custom": "1"})
    same(result.as_numpy("y"), value)


def test_sequences_are_refused_by_name(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match="sequence"):
        infer("limited", [tensor("x", np.ones((1, 4), np.float32))], sequence_id=7, sequence_start=True)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("question", [None, "gzip", "deflate"])
def test_compression(infer: Infer, question: str | None, answer: str | None, binary: bool) -> None:
    for columns in (3, 20_000):
        value = np.arange(2 * columns, dtype=np.int32).reshape(2, columns)
        result = infer(
            "echo-int32",
            [tensor("x", value, binary=binary)],
            outputs=wanted("y", binary=binary),
            request_compression_algorithm=question,
            response_compression_algorithm=answer,
        )
        same(result.as_numpy("y"), value)


# ---------------------------------------------------------------------- errors, and many at once


@pytest.mark.parametrize(
    ("model", "name", "value", "status", "words"),
    [
        ("no-such", "x", np.ones((1, 4), np.float32), "404", "unknown model: 'no-such' is not found"),
        ("limited", "x", np.ones((1, 5), np.float32), "400", r"input 'x'.*\[1, ?5\].*4\]"),
        ("limited", "x", np.ones(4, np.float32), "400", "input 'x'.*shape"),
        ("limited", "x", np.ones((1, 4), np.float64), "400", "input 'x'.*FP64.*FP32"),
        ("limited", "z", np.ones((1, 4), np.float32), "400", "'z'"),
        ("table", "index", np.array([[10]], np.int64), "500", "the model failed while it ran"),
    ],
)
def test_errors(infer: Infer, model: str, name: str, value: Array, status: str, words: str) -> None:
    with pytest.raises(InferenceServerException, match=words) as caught:
        infer(model, [tensor(name, value)])
    assert caught.value.status() == status


def test_an_unknown_output(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match="'nothing'"):
        infer("limited", [tensor("x", np.ones((1, 4), np.float32))], outputs=wanted("nothing"))


def test_a_missing_input(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match="input 'b' is missing"):
        infer("arithmetic", [tensor("a", np.ones((1, 2), np.float32))])


def values(count: int) -> Sequence[Array]:
    return [np.full((1 + number % 3, 4), number, np.float32) for number in range(count)]


def test_many_at_once(client: triton.InferenceServerClient) -> None:
    sent = values(100)
    pending = [client.async_infer("limited", [tensor("x", value)]) for value in sent]
    for value, one in zip(sent, pending, strict=True):
        same(one.get_result().as_numpy("y"), value)


def test_many_at_once_with_asyncio(model_server: Server) -> None:
    sent = values(100)

    async def ask(client: triton_aio.InferenceServerClient) -> list[Any]:
        return await asyncio.gather(*(client.infer("limited", [tensor("x", value)]) for value in sent))

    for value, result in zip(sent, asyncio.run(aio(model_server, ask)), strict=True):
        same(result.as_numpy("y"), value)
