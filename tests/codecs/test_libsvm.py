from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from serving.contract import ModelSpec
from serving.errors import InvalidInput, MalformedBody, ServingError
from tests.codecs.support import arrays, decode, missing, one

LIBSVM = "text/libsvm"
FOUR = one("FP32", -1, 4)
NAN = np.nan


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        (FOUR, "1 1:5 4:8", [[5, 0, 0, 8]]),
        (FOUR, "1 0:5 3:8\n", [[5, 0, 0, 8]]),
        (FOUR, "0:5 1:6\n1:7 2:8\n", [[5, 6, 0, 0], [0, 7, 8, 0]]),
        (FOUR, "1:7 2:8\n", [[7, 8, 0, 0]]),
        (FOUR, "-1 2:1\n+1 3:1\r\n", [[0, 1, 0, 0], [0, 0, 1, 0]]),
        (FOUR, "1.5 qid:3 2:1 # a comment: 1:2\n# another\n0 1:-2.5e1", [[0, 1, 0, 0], [-25, 0, 0, 0]]),
        (FOUR, "4:8 1:5", [[5, 0, 0, 8]]),
        (FOUR, "1\n0 1:2\n1\n", [[0] * 4, [2, 0, 0, 0], [0] * 4]),
        (FOUR, "1:nan\t2:inf", [[NAN, np.inf, 0, 0]]),
        (missing(FOUR), "1 2:6\n0", [[NAN, 6, NAN, NAN], [NAN] * 4]),
        (missing(one("FP64", -1, 2)), "0:0.1", [[0.1, NAN]]),
        (one("FP32", -1, -1), "1:1\n3:3", [[1, 0, 0], [0, 0, 3]]),
        (one("BF16", -1, 2), "1:1.5", [[1.5, 0]]),
    ],
)
def test_forms(model: ModelSpec, text: str, expected: Any) -> None:
    (found,) = arrays(model, decode(model, text.encode(), LIBSVM))
    np.testing.assert_array_equal(found.astype(np.float64), np.array(expected, np.float64))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (b"", MalformedBody, ["empty"]),
        (b" \n\n", MalformedBody, ["empty"]),
        (b"# nothing", MalformedBody, ["comments"]),
        (b"1 1:2\n\n0 1:3", MalformedBody, ["line 2 is empty"]),
        (b"1 5:2", InvalidInput, ["line 1 has index 5", "4 columns, 1 to 4"]),
        (b"1 0:1 4:2", InvalidInput, ["line 1 has index 4", "0 to 3"]),
        (b"1 0:1\n# c\n0 9:2", InvalidInput, ["line 3 has index 9"]),
        (b"1 -1:2", MalformedBody, ["line 1 has '-1'", "index"]),
        (b"1 1.5:2", MalformedBody, ["'1.5'"]),
        (b"1 :2", MalformedBody, ["line 1 has ''", "index"]),
        (b"1 a:2", MalformedBody, ["'a'"]),
        (b"1 1:", MalformedBody, ["index 1 is to be a number"]),
        (b"1 1:x", MalformedBody, ["'x'", "index 1"]),
        (b"1 1:1_0", MalformedBody, ["index 1"]),
        (b"1 1:2:3", MalformedBody, ["'2:3'"]),
        (b"1 1:2 3", MalformedBody, ["'3'", "index:value"]),
        (b"x 1:2", MalformedBody, ["'x'", "label"]),
        (b"1 1:2 1:3", MalformedBody, ["line 1 has index 1 twice"]),
        (b"1 qid:x 1:2", MalformedBody, ["'x'"]),
        (b"1 1:2 qid:1", MalformedBody, ["'qid'"]),
        (b"1 1234567890:2", MalformedBody, ["9 digits"]),
        (b"1 1:1e39", InvalidInput, ["line 1, index 1", "out of range for FP32"]),
        (b"1 1:-1e400", MalformedBody, ["line 1 has '-1e400'", "index 1 is out of range"]),
        (b"1,2,3,4", MalformedBody, ["'1,2,3,4'"]),
        (b"\xff\xfe 1:2", MalformedBody, ["label"]),
        ("1 \u0661:2".encode(), MalformedBody, ["index"]),
    ],
)
def test_faults(text: bytes, error: type[ServingError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        decode(FOUR, text, LIBSVM)
    assert type(caught.value) is error
    for word in words:
        assert word in caught.value.message


def test_few_bytes_ask_for_no_great_memory() -> None:
    with pytest.raises(InvalidInput, match="send fewer rows at once"):
        decode(one("FP32", -1, 100_000), b"0\n" * 1000, LIBSVM)
    with pytest.raises(InvalidInput, match="send fewer rows at once"):
        decode(one("FP32", -1, -1), b"1 0:1 999999999:1", LIBSVM)


@given(
    st.lists(
        st.dictionaries(st.integers(0, 5), st.floats(width=32, allow_nan=False), max_size=6), min_size=1, max_size=6
    ),
    st.booleans(),
)
def test_round_trip(rows: list[dict[int, float]], from_one: bool) -> None:
    # The smallest index says where counting begins: a row that has the first column settles it.
    rows = [*rows, {0: 1.0}]
    text = "\n".join("0 " + " ".join(f"{i + from_one}:{value!r}" for i, value in row.items()) for row in rows)
    model = missing(one("FP32", -1, 6))
    (found,) = arrays(model, decode(model, text.encode(), LIBSVM))
    expected = [[row.get(i, np.nan) for i in range(6)] for row in rows]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
