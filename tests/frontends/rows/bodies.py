"""Content codings, JSON, CSV, npy and raw bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any

import numpy as np

from tests.frontends.rows.row import MEBIBYTE, ROW, Row, invocation, to_model, zipped

GZIP = "Content-Encoding: gzip"
OVER = "26214400"


def coded(name: str, body: bytes, status: int, *words: str, coding: str = "gzip") -> Row:
    """A body with a Content-Encoding."""
    return Row(name, invocation(body, f"Content-Encoding: {coding}"), status, words, closes=status == 413)


def json(name: str, body: bytes | str, *words: str) -> Row:
    """A JSON body for `linear` that is refused."""
    return Row(name, invocation(body if isinstance(body, bytes) else body.encode()), 400, words)


def for_model(name: str, model: str, document: Any, *words: str) -> Row:
    """A JSON document for a model that is refused, with 424 as SageMaker does."""
    return Row(name, to_model(model, document), 424, words)


def overflow(datatype: str, value: str) -> Row:
    """A number that does not fit the model's datatype."""
    body = b'{"instances":[[%b,1]]}' % value.encode()
    return Row(f"{value} as {datatype}", to_model(f"echo-{datatype.lower()}", body), 424, ("[0][0]", datatype))


def csv(name: str, body: bytes | str, *words: str) -> Row:
    """A CSV body that is refused."""
    sent = invocation(body if isinstance(body, bytes) else body.encode(), content_type="text/csv")
    return Row(name, sent, 400, words)


def npy(name: str, body: bytes, *words: str) -> Row:
    """An npy body that is refused."""
    return Row(name, invocation(body, content_type="application/x-npy"), 400, words)


def octets(name: str, body: bytes, *words: str) -> Row:
    """Raw bytes that are refused."""
    return Row(name, invocation(body, content_type="application/octet-stream"), 400, words)


def saved(array: Any) -> bytes:
    """An array as numpy saves it, objects as pickles."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def npy_of(header: str, data: bytes = bytes(16)) -> bytes:
    """An npy file of version 1 with that header."""
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def header(shape: str = "(1, 4)", descr: str = "'<f4'", order: str = "False") -> str:
    """The header of an npy file."""
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


RAW_DEFLATE = zlib.compressobj(wbits=-15)
BOMB = gzip.compress(bytes(200 * MEBIBYTE), 9, mtime=0)

ROWS = [
    # ------------------------------------------------------------ content codings
    coded("not gzip", ROW, 400, "not gzip"),
    coded("gzip cut short", zipped()[:-6], 400, "gzip", "ends in the middle"),
    coded("gzip with a wrong checksum", zipped()[:-8] + bytes(8), 400, "not gzip"),
    coded("bytes after gzip", zipped() + b"more", 400, "bytes follow", "gzip"),
    coded("empty gzip body", b"", 400, "gzip"),
    coded("gzip bomb", BOMB, 413, "inflated", OVER),
    coded("deflate bomb", zlib.compress(bytes(200 * MEBIBYTE), 9), 413, "inflated", OVER, coding="deflate"),
    coded("not deflate", ROW, 400, "not deflate", coding="deflate"),
    coded("deflate cut short", zlib.compress(ROW)[:-5], 400, "deflate", "ends in the middle", coding="deflate"),
    coded("empty deflate body", b"", 400, "deflate", coding="deflate"),
    coded("unknown coding", ROW, 415, "'br'", "gzip and deflate", coding="br"),
    coded("garbled coding", ROW, 415, "'gz ip'", coding="gz ip"),
    coded("two codings", zipped(zipped()), 415, "2 content codings", coding="gzip, gzip"),
    Row("two codings in two headers", invocation(zipped(zipped()), GZIP, GZIP), 415, ("2 content codings",)),
    coded("gzip of what is not JSON", zipped(b"{"), 400, "not JSON"),
    # ------------------------------------------------------------ JSON as text
    json("empty body", b"", "empty", "JSON"),
    json("spaces only", "   ", "JSON"),
    json("cut short", '{"instances":[[1,2,3,4]]', "not JSON"),
    json("bytes after the end", '{"instances":[[1,2,3,4]]}{}', "not JSON"),
    json("trailing comma in a list", '{"instances":[[1,2,3,4,]]}', "not JSON"),
    json("trailing comma in an object", '{"instances":[[1,2,3,4]],}', "not JSON"),
    json("single quotes", "{'instances':[[1,2,3,4]]}", "not JSON"),
    json("a comment", '{"instances":[[1,2,3,4]]}//', "not JSON"),
    json("NaN", '{"instances":[[1,2,3,NaN]]}', "not JSON"),
    json("Infinity", '{"instances":[[1,2,3,Infinity]]}', "not JSON"),
    json("minus Infinity", '{"instances":[[1,2,3,-Infinity]]}', "not JSON"),
    json("leading zero", '{"instances":[[01,2,3,4]]}', "not JSON"),
    json("leading plus", '{"instances":[[+1,2,3,4]]}', "not JSON"),
    json("hexadecimal", '{"instances":[[0x1,2,3,4]]}', "not JSON"),
    json("not UTF-8", b'{"instances":[["\xff",2,3,4]]}', "not JSON"),
    json("overlong UTF-8", b'{"instances":[["\xc0\xaf",2,3,4]]}', "not JSON"),
    json("a lone surrogate", '{"instances":[["\\ud800",2,3,4]]}', "not JSON"),
    json("a byte order mark", b"\xef\xbb\xbf" + ROW, "not JSON"),
    json("UTF-16", '{"instances":[[1,2,3,4]]}'.encode("utf-16"), "not JSON"),
    json("a control character in a string", '{"instances":[["\x01",2,3,4]]}', "not JSON"),
    json("100,000 brackets", "[" * 100_000, "not JSON"),
    json("100,000 brackets, closed", "[" * 100_000 + "]" * 100_000, "not JSON"),
    json("20 MB of brackets", "[" * (20 * MEBIBYTE), "not JSON"),
    json("1,000 objects deep", '{"instances":' * 1000 + "1" + "}" * 1000, "instances", "a list of rows"),
    json("900 lists deep", '{"instances":' + "[" * 900 + "1" + "]" * 900 + "}", "'x'", "rank"),
    # ------------------------------------------------------------ JSON as a document
    json("null", "null", "null"),
    json("true", "true", "true"),
    json("a number", "1", "the number 1"),
    json("a string", '"instances"', "the string"),
    json("an empty object", "{}", "empty object"),
    json("an empty list", "[]", "empty"),
    json("unknown keys", '{"rows":[[1,2,3,4]]}', "'rows'", "'instances'"),
    json("instances and inputs", '{"instances":[[1,2,3,4]],"inputs":[[1,2,3,4]]}', "both 'instances' and 'inputs'"),
    json("instances is null", '{"instances":null}', "'instances' is null"),
    json("instances is a number", '{"instances":4}', "'instances' is the number 4"),
    json("instances is an object", '{"instances":{"x":[1,2,3,4]}}', "'instances' is an object"),
    json("no instances", '{"instances":[]}', "'instances' is empty"),
    json("an empty row", '{"instances":[[]]}', "'x'", "[1, 0]"),
    json("null in a row", '{"instances":[[1,2,3,null]]}', "'x'", "[0][3]", "null"),
    json("a number as a string", '{"instances":[[1,2,3,"4"]]}', "'x'", "[0][3]", "the string '4'"),
    json("true for a number", '{"instances":[[1,2,3,true]]}', "'x'", "[0][3]", "true"),
    json("false for a number, escaped key", '{"inst\\u0061nces":[[1,2,3,false]]}', "'x'", "[0][3]", "false"),
    json("an object in a row", '{"instances":[[1,2,3,{}]]}', "'x'", "[0][3]", "an object"),
    json("too few features", '{"instances":[[1,2,3]]}', "'x'", "[1, 3]", "[-1, 4]"),
    json("too many features", '{"instances":[[1,2,3,4,5]]}', "'x'", "[1, 5]", "[-1, 4]"),
    json("ragged rows", '{"instances":[[1,2,3,4],[1,2,3]]}', "'x'", "ragged", "[1] has 3"),
    json("a row and a number", '{"instances":[[1,2,3,4],5]}', "'x'", "ragged", "[1]"),
    json("a row too deep", '{"instances":[[[1,2,3,4]]]}', "'x'", "[1, 1, 4]", "[-1, 4]"),
    json("a row too flat", '{"instances":[1,2,3,4]}', "'x'", "[4]", "[-1, 4]"),
    json("a number too large for the format", '{"instances":[[1,2,3,1e400]]}', "not JSON", "infinity"),
    json(
        "a large body that is wrong at its end",
        '{"instances":[' + "[1,2,3,4]," * 60_000 + "[1,2,3]]}",
        "ragged",
        "[60000]",
    ),
    json(
        "a large body of an unknown key",
        '{"instances":[' + "[1,2,3,4]," * 60_000 + '[1,2,3,4]],"instances":0}',
        "'instances' is the number 0",
    ),
    # ------------------------------------------------------------ values
    overflow("UINT8", "256"),
    overflow("UINT8", "-1"),
    overflow("UINT16", "65536"),
    overflow("UINT32", "4294967296"),
    overflow("UINT64", "18446744073709551616"),
    overflow("UINT64", "-1"),
    overflow("INT8", "128"),
    overflow("INT8", "-129"),
    overflow("INT16", "32768"),
    overflow("INT32", "2147483648"),
    overflow("INT64", "9223372036854775808"),
    overflow("INT64", "-9223372036854777856"),
    overflow("INT32", "1.5"),
    overflow("INT64", "1e30"),
    overflow("FP16", "65520"),
    overflow("BF16", "3.4e38"),
    overflow("FP32", "1e39"),
    overflow("FP32", "-1e39"),
    overflow("BOOL", "2"),
    overflow("BOOL", '"true"'),
    overflow("BYTES", "1"),
    overflow("BYTES", "null"),
    for_model("not base64", "echo-bytes", {"instances": [["a", {"b64": "!"}]]}, "[0][1]", "base64"),
    for_model("base64 of a number", "echo-bytes", {"instances": [["a", {"b64": 1}]]}, "[0][1]", "base64"),
    # ------------------------------------------------------------ records and several inputs
    for_model(
        "a record without a feature",
        "records",
        {"instances": [{"amount": 1, "hour": 2, "risk": 3}]},
        "row 0",
        "'velocity'",
    ),
    for_model(
        "a record with an unknown feature",
        "records",
        {"instances": [{"amount": 1, "hour": 2, "risk": 3, "velocity": 4, "speed": 5}]},
        "row 0",
        "'speed'",
    ),
    for_model("a record of something else", "records", {"instances": [{"a": 1}]}, "row 0", "'a'"),
    for_model("an empty record", "records", {"instances": [{}]}, "row 0", "'amount'"),
    for_model(
        "the second record", "records", {"instances": [{"features": [1, 2, 3, 4]}, {"hour": 1}]}, "row 1", "'amount'"
    ),
    for_model(
        "a feature that is a list",
        "records",
        {"instances": [{"amount": 1, "hour": [2], "risk": 3, "velocity": 4}]},
        "[0][1]",
        "a list",
    ),
    for_model("a bare record of something else", "records", {"amont": 1}, "'amont'"),
    for_model("a list for two inputs", "pair", {"instances": [[1, 2, 3]]}, "row 0", "'a', 'b'"),
    for_model("one of two inputs", "pair", {"instances": [{"a": [1, 2]}]}, "'b'"),
    for_model("a third input", "pair", {"instances": [{"a": [1, 2], "b": [3], "c": [4]}]}, "'c'"),
    for_model("columns of different lengths", "pair", {"inputs": {"a": [[1, 2], [3, 4]], "b": [[1]]}}, "1 rows", "2"),
    for_model("a column too few", "pair", {"inputs": {"a": [[1, 2]]}}, "'b' is missing"),
    for_model("an unknown column", "pair", {"inputs": {"a": [[1, 2]], "z": [[1]]}}, "'z'", "'a', 'b'"),
    for_model("columns in a list", "pair", {"inputs": [[1, 2], [1]]}, "'inputs' is a list", "'a', 'b'"),
    # ------------------------------------------------------------ CSV
    csv("empty CSV", "", "empty"),
    csv("blank CSV", "\n\n", "empty"),
    csv("ragged CSV", "1,2,3,4\n1,2,3\n", "line 2", "3 values"),
    csv("an empty field", "1,,3,4\n", "line 1, value 2", "empty"),
    csv("a blank line", "1,2,3,4\n\n1,2,3,4\n", "line 2"),
    csv("a header", "a,b,c,d\n1,2,3,4\n", "line 1, value 1", "'a'"),
    csv("too few columns", "1,2,3\n", "'x'", "[1, 3]", "[-1, 4]"),
    csv("a quote that is not closed", '1,2,3,"4\n', "not CSV"),
    csv("bytes after a quote", '1,2,3,"4"5\n', "not CSV"),
    csv("semicolons", "1;2;3;4\n", "'1;2;3;4'"),
    csv("a thousands separator", '1,2,3,"4,000"\n', "line 1, value 4", "4,000"),
    csv("an underscore", "1,2,3,4_0\n", "line 1, value 4", "4_0"),
    csv("other digits", "1,2,3,٤\n", "line 1, value 4"),
    csv("a number of 5,000 digits", "1,2,3," + "9" * 5000 + "\n", "line 1, value 4", "FP32"),
    csv("too large for FP32", "1,2,3,1e39\n", "[0][3]", "FP32"),
    csv("CSV not in UTF-8", b"1,2,3,\xff\n", "not UTF-8"),
    csv("NUL in CSV", b"1,2,3,\x004\n", "line 1, value 4"),
    csv("CSV in a field of 1 MB", "1,2,3," + "x" * MEBIBYTE, "not CSV"),
    Row(
        "CSV for three dimensions",
        to_model("cube", b"").replace(b"application/json", b"text/csv"),
        424,
        ("text/csv", "cube"),
    ),
    Row(
        "CSV for two inputs",
        to_model("pair", b"1,2,3").replace(b"application/json", b"text/csv"),
        424,
        ("text/csv", "pair"),
    ),
    # ------------------------------------------------------------ npy
    npy("not npy", ROW, "not an .npy file"),
    npy("empty npy", b"", "not an .npy file"),
    npy("npy of version 9", b"\x93NUMPY\x09\x00" + bytes(8), "not an .npy file"),
    npy("npy header of 60,000 bytes", b"\x93NUMPY\x01\x00\x60\xea" + b" " * 60_000, "header", "4096"),
    npy("npy header of 4 GB", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100, "header", "4096"),
    npy("npy header cut short", saved(np.zeros((1, 4), "<f4"))[:50], "header"),
    npy("npy header is code", npy_of("__import__('os').abort()\n"), "header cannot be read"),
    npy("npy header is brackets", npy_of("(" * 3000), "header cannot be read"),
    npy("npy header is a list", npy_of("[1, 2]\n"), "header cannot be read"),
    npy(
        "npy header without a shape",
        npy_of("{'descr': '<f4', 'fortran_order': False}\n"),
        "header cannot be read",
        "shape",
    ),
    npy("a pickle", saved(np.array([[print]], object)), "dtype", "|O"),
    npy("a structured array", npy_of(header(descr="[('a', '<f4')]")), "descr"),
    npy("complex numbers", saved(np.zeros((1, 4), np.complex64)), "complex64", "FP32"),
    npy("dates", saved(np.zeros((1, 4), "M8[s]")), "descr"),
    npy("text for numbers", saved(np.array([["1"] * 4])), "<U1", "FP32"),
    npy("booleans for numbers", saved(np.ones((1, 4), bool)), "bool", "FP32"),
    npy("an unknown dtype", npy_of(header(descr="'<q9'")), "header"),
    npy("a dtype of 10^12 bytes", npy_of(header(descr="'S999999999999'")), "npy"),
    npy("a dtype of 10^30 bytes", npy_of(header(descr="'S" + "9" * 30 + "'")), "npy"),
    npy("wrong number of features in npy", saved(np.zeros((1, 5), "<f4")), "[1, 5]", "[-1, 4]"),
    npy("wrong rank in npy", saved(np.zeros(4, "<f4")), "[4]", "[-1, 4]"),
    npy("no rows in npy", saved(np.zeros((0, 4), "<f4")), "[0, 4]", "no rows"),
    npy("negative shape in npy", npy_of(header("(-1, 4)")), "shape"),
    npy("shape of booleans in npy", npy_of(header("(True, 4)")), "shape"),
    npy("overflowing shape in npy", npy_of(header("(4611686018427387904, 4)")), "shape"),
    npy("shape larger than the data in npy", npy_of(header("(1000, 4)")), "16000 bytes", "16 came"),
    npy("shape smaller than the data in npy", npy_of(header(), bytes(20)), "16 bytes", "20 came"),
    npy("too large for FP32 in npy", saved(np.full((1, 4), 1e300)), "element 0", "FP32"),
    # ------------------------------------------------------------ raw bytes
    octets("15 raw bytes", bytes(15), "15 bytes", "multiple of 16"),
    octets("17 raw bytes", bytes(17), "17 bytes", "multiple of 16"),
    octets("no raw bytes", b"", "0 bytes", "multiple of 16"),
    Row(
        "raw bytes that are no BOOL",
        to_model("echo-bool", b"\x01\x02").replace(b"application/json", b"application/octet-stream"),
        424,
        ("byte 1 is 2",),
    ),
    Row(
        "raw bytes for two inputs",
        to_model("pair", bytes(16)).replace(b"application/json", b"application/octet-stream"),
        424,
        ("octet-stream", "pair"),
    ),
]
