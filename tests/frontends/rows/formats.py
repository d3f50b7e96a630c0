"""JSON lines, libsvm, RecordIO, Arrow, and CSV with headers and gaps."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tests.codecs.records import frame, frames, record
from tests.codecs.test_arrow import batch, fixed, stream
from tests.frontends.rows.row import Row, invocation
from tests.support.wire import request

RECORDIO = "application/x-recordio-protobuf"
ARROW = "application/vnd.apache.arrow.stream"
F32, F64, I32 = "float32_tensor", "float64_tensor", "int32_tensor"


def refused(media_type: str, name: str, body: bytes | str, *words: str) -> Row:
    """A body for `linear` that is refused."""
    data = body if isinstance(body, bytes) else body.encode()
    return Row(f"{media_type.rpartition('/')[2]}: {name}", invocation(data, content_type=media_type), 400, words)


def by_name(media_type: str, name: str, body: bytes, *words: str) -> Row:
    """A body for `records` that is refused, with 424 as SageMaker does."""
    sent = request("/endpoints/records/invocations", body, f"Content-Type: {media_type}")
    return Row(f"{media_type.rpartition('/')[2]} by name: {name}", sent, 424, words)


def lines(name: str, body: bytes | str, *words: str) -> Row:
    """JSON lines that are refused."""
    return refused("application/jsonlines", name, body, *words)


def libsvm(name: str, body: bytes | str, *words: str) -> Row:
    """libsvm that is refused."""
    return refused("text/libsvm", name, body, *words)


def recordio(name: str, body: bytes, *words: str) -> Row:
    """RecordIO that is refused."""
    return refused(RECORDIO, name, body, *words)


def arrow(name: str, body: bytes, *words: str) -> Row:
    """An Arrow stream that is refused."""
    return refused(ARROW, name, body, *words)


def column(values: Any) -> bytes:
    """A stream of the one column x."""
    return stream(batch(x=values))


GOOD = frame(record(F32, [1, 2, 3, 4]).SerializeToString())
STREAM = column(fixed([1, 2, 3, 4], 4))
ZSTD = pa.ipc.IpcWriteOptions(compression="zstd")

ROWS = [
    # ------------------------------------------------------------ JSON lines
    lines("nothing", b"", "empty"),
    lines("blank lines", b"\n\n", "empty"),
    lines("a blank line between", b"[1,2,3,4]\n\n[1,2,3,4]\n", "line 2", "empty"),
    lines("a line cut off", b"[1,2,3,4]\n[1,2", "line 2", "not JSON"),
    lines("a row over two lines", b"[1,2,\n3,4]", "line 1", "not JSON"),
    lines("two rows on a line", b"[1,2,3,4],[1,2,3,4]", "line 1", "not JSON"),
    lines("no UTF-8", b"\xff\xfe", "line 1", "not JSON"),
    lines("rows of different lengths", b"[1,2,3,4]\n[1,2,3]", "ragged", "[1] has 3"),
    lines("rows too short", b"[1,2,3]", "[1, 3]", "[-1, 4]"),
    lines("a word", b'[1,2,3,"four"]', "the string 'four'"),
    lines("a boolean", b"[1,2,3,true]", "[0][3] is true"),
    lines("null", b"[1,2,3,null]", "[0][3] is null"),
    lines("NaN", b"[1,2,3,NaN]", "line 1", "not JSON"),
    lines("too large for float32", b"[1,2,3,1e39]", "out of range for FP32"),
    lines("an unknown key", b'{"z":[1,2,3,4]}', "'z'"),
    lines("several instances on a line", b'{"instances":[[1,2,3,4],[1,2,3,4]]}', "line 1", "2 rows", "one row a line"),
    lines("no instance on a line", b'[1,2,3,4]\n{"instances":[]}', "line 2", "0 rows"),
    by_name("application/jsonlines", "a feature missing", b'{"amount":1,"hour":2,"risk":3}', "no feature 'velocity'"),
    by_name(
        "application/jsonlines",
        "an unknown feature",
        b'{"amount":1,"hour":2,"risk":3,"velocity":4,"x1":5}',
        "unknown feature 'x1'",
    ),
    # ------------------------------------------------------------ libsvm
    libsvm("nothing", b"", "empty"),
    libsvm("comments only", b"# 1:2\n", "comments"),
    libsvm("an empty line between", b"1 1:2\n\n1 1:2", "line 2 is empty"),
    libsvm("an index too large", b"1 5:2", "index 5", "4 columns, 1 to 4"),
    libsvm("an index too large from 0", b"1 0:1 4:2", "index 4", "0 to 3"),
    libsvm("a negative index", b"1 -1:2", "'-1'", "index"),
    libsvm("an index that is no number", b"1 amount:2", "'amount'", "index"),
    libsvm("an index with a point", b"1 1.0:2", "'1.0'"),
    libsvm("an endless index", b"1 " + b"9" * 400 + b":2", "9 digits"),
    libsvm("no index", b"1 :2", "index"),
    libsvm("no value", b"1 1:", "index 1 is to be a number"),
    libsvm("a value that is a word", b"1 1:x", "'x'"),
    libsvm("an index twice", b"1 1:2 1:3", "index 1 twice"),
    libsvm("a label that is a word", b"fraud 1:2", "'fraud'", "label"),
    libsvm("two labels", b"1 0 1:2", "'0'", "index:value"),
    libsvm("a query id that is a word", b"1 qid:a 1:2", "'a'"),
    libsvm("CSV", b"1,2,3,4", "'1,2,3,4'"),
    libsvm("too large for float32", b"1 1:1e39", "out of range for FP32"),
    # ------------------------------------------------------------ RecordIO and protobuf
    recordio("nothing", b"", "empty"),
    recordio("CSV", b"1,2,3,4\n", "no RecordIO frame at byte 0", "magic number"),
    recordio("a head cut off", GOOD[:6], "cut off", "6 bytes"),
    recordio("a frame cut off", GOOD[:-8], "byte 0 says", "left in the body"),
    recordio("a length too large", GOOD[:4] + b"\xff\xff\xff\x1f" + GOOD[8:], "says 536870911 bytes"),
    recordio("a broken magic number", GOOD + b"\0" + GOOD[1:], f"no RecordIO frame at byte {len(GOOD)}"),
    recordio("a big-endian magic number", GOOD[3::-1] + GOOD[4:], "no RecordIO frame at byte 0"),
    recordio("a last part without a first", frame(b"abcd", 3), "part 3", "out of its order"),
    recordio("a first part without a last", frame(b"abcd", 1), "last part is missing"),
    recordio("protobuf cut off", frame(record(F32, [1, 2, 3, 4]).SerializeToString()[:-3]), "record 0", "cut off"),
    recordio("no protobuf", frame(b"hello, world"), "record 0", "protobuf"),
    recordio("an endless varint", frame(b"\x0a" + b"\xff" * 11), "does not end"),
    recordio("an empty record", frame(b""), "record 0 has no feature 'x'"),
    recordio("another feature", frames([record(F32, [1, 2, 3, 4], name="other")]), "'other'", "'values' or 'x'"),
    recordio("too few values", frames([record(F32, [1, 2, 3])]), "has 3 values", "[4]"),
    recordio("rows of different lengths", GOOD + frames([record(F32, [1, 2, 3, 4, 5])]), "record 1 has 5 values"),
    recordio("a key too large", frames([record(F32, [1], keys=[4])]), "key 4", "0 to 3"),
    recordio("a key twice", frames([record(F32, [1, 2], keys=[1, 1])]), "key twice"),
    recordio("fewer keys than values", frames([record(F32, [1, 2], keys=[1])]), "2 values and 1 keys"),
    recordio("a shape of another width", frames([record(F32, [1], keys=[0], shape=[9])]), "[1, 9]", "[-1, 4]"),
    recordio("strings", frames([record("bytes", [b"a", b"b", b"c", b"d"])]), "bytes", "FP32"),
    recordio("too large for float32", frames([record(F64, [1, 2, 3, 1e39])]), "out of range for FP32"),
    # ------------------------------------------------------------ Arrow
    arrow("nothing", b"", "empty"),
    arrow("CSV", b"1,2,3,4\n", "not an Arrow IPC stream"),
    arrow("an Arrow file", b"ARROW1\0\0" + STREAM, "Arrow file"),
    arrow("a schema cut off", STREAM[:60], "not an Arrow IPC stream"),
    arrow("a batch cut off", STREAM[:-24], "not an Arrow IPC stream"),
    arrow("no rows", column(fixed([], 4)), "no rows"),
    arrow("no columns", stream(pa.record_batch([], names=[])), "0 columns"),
    arrow("strings", column(pa.array(["a"])), "type string", "FP32"),
    arrow("times", column(pa.array([1], pa.timestamp("us"))), "type timestamp[us]"),
    arrow("decimals", column(pa.array([1], pa.decimal128(5))), "type decimal128"),
    arrow("objects", column(pa.array([{"a": 1}])), "type struct"),
    arrow("booleans", column(fixed([True] * 4, 4, pa.bool_())), "bool", "FP32"),
    arrow("a dictionary", column(pa.array(["a"]).dictionary_encode()), "dictionary"),
    arrow("compressed buffers", stream(batch(x=fixed(list(range(400)), 4)), options=ZSTD), "compressed"),
    arrow("a null", column(fixed([1, None, 3, 4], 4)), "null at 1"),
    arrow("a null row", column(pa.array([[1.0, 2, 3, 4], None])), "null", "at 1"),
    arrow("rows of different lengths", column(pa.array([[1.0, 2, 3, 4], [1.0]])), "ragged", "list 1 has 1"),
    arrow("rows too short", column(fixed([1, 2, 3], 3)), "[1, 3]", "[-1, 4]"),
    arrow("too large for float32", column(fixed([1, 2, 3, 1e39], 4, pa.float64())), "out of range for FP32"),
    by_name(ARROW, "a column missing", stream(batch(amount=pa.array([1]), hour=pa.array([2]))), "no column 'risk'"),
    by_name(ARROW, "another column", stream(batch(amount=pa.array([1]), colour=pa.array([2]))), "no feature 'colour'"),
    # ------------------------------------------------------------ CSV
    refused("text/csv", "a gap", b"1,,3,4\n", "line 1, value 2 is empty"),
    refused("text/csv", "a quoted gap", b'1,2,3,4\n1,"",3,4\n', "line 2, value 2 is empty"),
    refused("text/csv", "lines of different lengths", b"1,2,3,4\n1,2,3\n", "line 2 has 3 values", "line 1 has 4"),
    refused("text/csv", "lines too long", b"1,2,3,4,5\n1,2,3,4,5\n", "[2, 5]", "[-1, 4]"),
    refused("text/csv", "semicolons", b"1;2;3;4\n", "'1;2;3;4'"),
    by_name("text/csv", "an unknown column", b"amount,hour,risk,speed\n1,2,3,4\n", "'speed'", "no 'velocity'"),
    by_name("text/csv", "a column twice", b"amount,hour,risk,risk\n1,2,3,4\n", "'risk' twice"),
    by_name("text/csv", "a column missing", b"amount,hour,risk\n1,2,3\n", "no 'velocity'"),
    by_name("text/csv", "a header alone", b"amount,hour,risk,velocity\n", "no rows after the header"),
    Row(
        "csv: another label size",
        invocation(b"1,2,3,4\n", content_type="text/csv;label_size=2"),
        415,
        ("label_size '2'",),
    ),
]
