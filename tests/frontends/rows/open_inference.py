"""Open Inference v2 documents and their binary tails."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.frontends.rows.row import Row, infer, infer_binary, inputs, tensor

DATA = [1, 2, 3, 4]
FOUR = np.arange(4, dtype="<f4").tobytes()
STRINGS = b"\x01\x00\x00\x00a\x02\x00\x00\x00bc"


def json(name: str, document: Any, *words: str, model: str = "linear", status: int = 400) -> Row:
    """A document that is refused."""
    return Row(name, infer(model, document), status, words)


def shaped(name: str, shape: Any, *words: str, data: Any = None) -> Row:
    """A document whose shape is refused."""
    return json(name, inputs(tensor(shape=shape, data=DATA if data is None else data)), "'x'", *words)


def sized(**parameters: Any) -> dict[str, Any]:
    """An input of `linear` whose data is in the tail."""
    return tensor(parameters=parameters)


def binary(
    name: str, document: Any, tail: bytes, *words: str, model: str = "linear", length: int | str | None = None
) -> Row:
    """A document with a binary tail that is refused."""
    return Row(name, infer_binary(model, document, tail, length=length), 400, words)


def words_of(size: int, shape: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """A document for `echo-bytes` with a tail of that size."""
    return inputs(tensor(datatype="BYTES", shape=shape, parameters={"binary_data_size": size}))


A = tensor("a", "FP32", (1, 2), data=[1, 2])
B = tensor("b", "INT64", (1, 1), data=[3])

ROWS = [
    # ------------------------------------------------------------ documents
    json("v2 null", None, "null"),
    json("v2 list", [1], "a list"),
    json("v2 empty object", {}, "'inputs' is missing"),
    json("v2 inputs is null", {"inputs": None}, "'inputs' is null"),
    json("v2 inputs is an object", {"inputs": {"x": DATA}}, "'inputs' is an object"),
    json("v2 no inputs", {"inputs": []}, "'x' is missing"),
    json("v2 input is a number", {"inputs": [1]}, "inputs[0]", "the number 1"),
    json("v2 instances", {"instances": [DATA]}, "'inputs' is missing"),
    json("v2 not JSON", b'{"inputs":', "not JSON"),
    json("v2 empty body", b"", "empty"),
    json("v2 id is a number", inputs(tensor(data=DATA), id=7), "'id'", "the number 7"),
    json("v2 parameters is a list", inputs(tensor(data=DATA), parameters=[]), "'parameters'", "a list"),
    # ------------------------------------------------------------ tensors
    json(
        "v2 input without a name",
        {"inputs": [{"shape": [1, 4], "datatype": "FP32", "data": DATA}]},
        "inputs[0]",
        "'name'",
    ),
    json("v2 input without a shape", {"inputs": [{"name": "x", "datatype": "FP32", "data": DATA}]}, "'x'", "'shape'"),
    json(
        "v2 input without a datatype", {"inputs": [{"name": "x", "shape": [1, 4], "data": DATA}]}, "'x'", "'datatype'"
    ),
    json("v2 input without data", inputs(tensor()), "'x'", "'data'"),
    json("v2 unknown input", inputs(tensor("z", data=DATA)), "'z'", "'x'"),
    json("v2 name is a number", inputs(tensor(7, data=DATA)), "the number 7"),  # type: ignore[arg-type]
    json("v2 name of 10,000 characters", inputs(tensor("z" * 10_000, data=DATA)), "no input 'zzz", "'x'"),
    json("v2 input twice", inputs(tensor(data=DATA), tensor(data=DATA)), "'x'", "twice"),
    json("v2 one of two inputs", inputs(A), "'b' is missing", model="pair"),
    json("v2 a third input", inputs(A, B, tensor("c", data=DATA)), "'c'", "'a', 'b'", model="pair"),
    json("v2 different rows", inputs(A, tensor("b", "INT64", (2, 1), data=[3, 4])), "2 rows", "1", model="pair"),
    json("v2 wrong datatype", inputs(tensor(datatype="INT32", data=DATA)), "'x'", "INT32", "FP32"),
    json("v2 unknown datatype", inputs(tensor(datatype="FLOAT", data=DATA)), "'x'", "FLOAT", "FP32"),
    json("v2 datatype is null", inputs(tensor(datatype=None, data=DATA)), "'x'", "null", "FP32"),  # type: ignore[arg-type]
    json("v2 data is a string", inputs(tensor(data="1234")), "'x'", "'data'", "the string"),
    json("v2 data is an object", inputs(tensor(data={})), "'x'", "'data'", "an object"),
    json("v2 too little data", inputs(tensor(data=[1, 2, 3])), "'x'", "3 elements", "4"),
    json("v2 too much data", inputs(tensor(data=[1, 2, 3, 4, 5])), "'x'", "5 elements", "4"),
    json("v2 no data at all", inputs(tensor(data=[])), "'x'", "0 elements", "4"),
    json("v2 data nested otherwise", inputs(tensor(data=[[1, 2], [3, 4]])), "'x'", "[2, 2]", "[1, 4]"),
    json("v2 ragged data", inputs(tensor(shape=(2, 4), data=[DATA, [1, 2]])), "'x'", "ragged"),
    json("v2 text for numbers", inputs(tensor(data=[1, 2, 3, "4"])), "'x'", "the string '4'"),
    json("v2 true for a number", inputs(tensor(data=[1, 2, 3, True])), "'x'", "true"),
    json("v2 false for a number", inputs(tensor(data=[1, 2, 3, False])), "'x'", "false"),
    json("v2 null for a number", inputs(tensor(data=[1, 2, 3, None])), "'x'", "null"),
    json("v2 too large for FP32", inputs(tensor(data=[1, 2, 3, 1e39])), "'x'", "FP32"),
    # ------------------------------------------------------------ shapes
    shaped("v2 wrong columns", (1, 5), "[1, 5]", "[-1, 4]", data=[1, 2, 3, 4, 5]),
    shaped("v2 wrong rank", (4,), "[4]", "[-1, 4]"),
    shaped("v2 rank 3", (1, 1, 4), "[1, 1, 4]", "[-1, 4]"),
    shaped("v2 rank 10,000", (1,) * 10_000, "rank 10000"),
    shaped("v2 negative dimension", (-1, 4), "negative"),
    shaped("v2 negative dimensions that multiply to 4", (-1, -4), "negative"),
    shaped("v2 no rows", (0, 4), "no rows", data=[]),
    shaped("v2 fraction of a row", (1.5, 4), "1.5"),
    shaped("v2 dimension is a string", ("1", 4), "the string '1'"),
    shaped("v2 dimension is true", (True, 4), "true"),
    shaped("v2 dimension is null", (None, 4), "null"),
    shaped("v2 shape is a number", 4, "'shape'", "the number 4"),
    shaped("v2 shape is null", None, "'shape'", "null"),
    shaped("v2 2^62 rows", (2**62, 4), "overflows"),
    shaped("v2 2^63 - 1 rows", (2**63 - 1, 4), "overflows"),
    shaped("v2 2^64 rows", (2**64 - 1, 4), "overflows"),
    shaped("v2 10^30 rows", (1e30, 4), "1e+30"),
    shaped("v2 a billion rows", (10**9, 4), "4 elements", "4000000000"),
    # ------------------------------------------------------------ outputs and parameters
    json("v2 unknown output", inputs(tensor(data=DATA), outputs=[{"name": "z"}]), "'z'", "'y'"),
    json("v2 output without a name", inputs(tensor(data=DATA), outputs=[{}]), "null", "'y'"),
    json("v2 output twice", inputs(tensor(data=DATA), outputs=[{"name": "y"}, {"name": "y"}]), "'y'", "twice"),
    json("v2 outputs is an object", inputs(tensor(data=DATA), outputs={"name": "y"}), "'outputs'", "an object"),
    json("v2 output is a string", inputs(tensor(data=DATA), outputs=["y"]), "outputs[0]", "the string 'y'"),
    json(
        "v2 binary_data is a number",
        inputs(tensor(data=DATA), outputs=[{"name": "y", "parameters": {"binary_data": 1}}]),
        "'binary_data'",
        "the number 1",
    ),
    json(
        "v2 negative classification",
        inputs(tensor(data=DATA), outputs=[{"name": "y", "parameters": {"classification": -1}}]),
        "'classification'",
        "-1",
    ),
    json("v2 negative timeout", inputs(tensor(data=DATA), parameters={"timeout": -1}), "'timeout'", "-1"),
    json("v2 timeout in words", inputs(tensor(data=DATA), parameters={"timeout": "1s"}), "'timeout'", "1s"),
    json("v2 priority in words", inputs(tensor(data=DATA), parameters={"priority": "high"}), "'priority'", "high"),
    json("v2 priority that there is not", inputs(tensor(data=DATA), parameters={"priority": 3}), "priority 3"),
    json("v2 a sequence", inputs(tensor(data=DATA), parameters={"sequence_id": 5}), "sequence_id", status=501),
    json(
        "v2 shared memory", inputs(tensor(parameters={"shared_memory_region": "r"})), "shared_memory_region", status=501
    ),
    # ------------------------------------------------------------ binary tails
    json("v2 binary without a header length", inputs(sized(binary_data_size=16)), "Inference-Header-Content-Length"),
    binary("v2 tail too short", inputs(sized(binary_data_size=16)), FOUR[:12], "16 binary bytes", "12 are left"),
    binary("v2 tail too long", inputs(sized(binary_data_size=16)), FOUR + b"more", "4 bytes after"),
    binary("v2 size too small", inputs(sized(binary_data_size=12)), FOUR[:12], "12 bytes", "16"),
    binary("v2 size too large", inputs(sized(binary_data_size=20)), FOUR + b"more", "20 bytes", "16"),
    binary("v2 negative size", inputs(sized(binary_data_size=-16)), FOUR, "'binary_data_size'", "-16"),
    binary("v2 size is a string", inputs(sized(binary_data_size="16")), FOUR, "'binary_data_size'", "'16'"),
    binary("v2 size is a fraction", inputs(sized(binary_data_size=16.5)), FOUR, "'binary_data_size'", "16.5"),
    binary("v2 size past 64 bits", inputs(sized(binary_data_size=2**63)), FOUR, "'binary_data_size'"),
    binary("v2 data and size", inputs(tensor(data=DATA, parameters={"binary_data_size": 16})), FOUR, "both 'data'"),
    binary("v2 tail without a size", inputs(tensor(data=DATA)), FOUR, "16 bytes after"),
    binary("v2 header length past the body", inputs(sized(binary_data_size=16)), FOUR, "99999", length=99999),
    binary("v2 header length too small", inputs(sized(binary_data_size=16)), FOUR, "not JSON", length=10),
    binary("v2 header length of 0 and JSON", inputs(sized(binary_data_size=16)), FOUR, "multiple of 16", length=0),
    binary(
        "v2 BOOL of 2",
        inputs(tensor(datatype="BOOL", shape=(1, 2), parameters={"binary_data_size": 2})),
        b"\x01\x02",
        "byte 1 is 2",
        model="echo-bool",
    ),
    binary("v2 strings cut in a length", words_of(7), STRINGS[:7], "BYTES elements need", model="echo-bytes"),
    binary("v2 strings cut in a string", words_of(10), STRINGS[:10], "says 2 bytes", "1 are left", model="echo-bytes"),
    binary(
        "v2 strings with a huge length",
        words_of(11),
        b"\xff\xff\xff\xff" + STRINGS[4:],
        "4294967295",
        model="echo-bytes",
    ),
    binary("v2 strings and more", words_of(12), STRINGS + b"x", "1 bytes after", model="echo-bytes"),
    binary("v2 more strings than it says", words_of(11, (1, 1)), STRINGS, "[1, 1]", model="echo-bytes"),
    binary(
        "v2 strings not in UTF-8",
        words_of(10),
        b"\x01\x00\x00\x00a\x01\x00\x00\x00\xff",
        "not UTF-8",
        model="echo-bytes",
    ),
    # ------------------------------------------------------------ while it runs
    json("v2 an index out of range", inputs(tensor("i", "INT64", (1,), data=[7])), "model", model="index", status=500),
]
