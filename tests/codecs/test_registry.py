from __future__ import annotations

import numpy as np
import pytest

from serving.codecs import jsonlines, libsvm, registry
from serving.codecs.base import Asked, Style
from serving.codecs.plan import InputPlan
from serving.contract import TensorSpec
from serving.errors import NotAcceptable, UnsupportedMediaType
from tests.codecs.support import TWO, decode, one, spec

ALL = [registry.JSON, registry.CSV, registry.NPY, registry.OCTET]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, registry.JSON),
        ("", registry.JSON),
        ("*/*", registry.JSON),
        ("*", registry.JSON),
        ("application/*", registry.JSON),
        ("text/*", registry.CSV),
        ("text/csv", registry.CSV),
        ("TEXT/CSV; charset=utf-8", registry.CSV),
        ("application/x-npy", registry.NPY),
        ("text/csv, application/json", registry.CSV),
        ("application/json, text/csv", registry.JSON),
        ("application/json;q=0.5, text/csv", registry.CSV),
        ("application/json;q=0.5, text/csv;q=0.4", registry.JSON),
        ("image/png, text/csv;q=0.1", registry.CSV),
        ("*/*, application/json;q=0", registry.CSV),
        ("application/*, application/json;q=0", registry.NPY),
        ("text/csv;q=0.5, */*", registry.JSON),
        ("application/json;q=0.2, */*;q=0.5", registry.CSV),
        ("text/csv;q=2, application/x-npy", registry.NPY),
        ("text/csv;q=x, application/x-npy", registry.NPY),
        ("text/csv;q=nan, application/x-npy", registry.NPY),
    ],
)
def test_accept(accept: str | None, expected: str) -> None:
    assert registry.negotiate(accept, ALL, registry.JSON) == expected


def test_the_default_is_what_a_wildcard_gets() -> None:
    assert registry.negotiate("*/*", ALL, registry.CSV) == registry.CSV
    assert registry.negotiate(None, ALL, registry.CSV) == registry.CSV


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "*/*;q=0", "nonsense", "/", ",", "text/"])
def test_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json, text/csv"):
        registry.negotiate(accept, ALL[:2], registry.JSON)


def test_formats_of_one_output_are_not_offered_for_several() -> None:
    outputs = (TensorSpec("p", "FP32", (-1, 2)), TensorSpec("q", "FP32", (-1, 2)))
    model = spec(TensorSpec("x", "FP32", (-1, 3)), outputs=outputs)
    with pytest.raises(
        NotAcceptable, match="writes application/json, application/jsonlines, text/csv, application/x-recordio-protobuf"
    ):
        registry.encoder(model, "m", "1", "application/x-npy")


@pytest.mark.parametrize("media_type", ["", "application/json", "Application/JSON; charset=utf-8"])
def test_json_is_the_default_question(media_type: str) -> None:
    assert decode(one(), b'{"instances":[[1,2,3]]}', media_type)[0] == 1


@pytest.mark.parametrize("media_type", ["text/plain", "image/png", "application/jsonlinesx", "nonsense"])
def test_unsupported_media_types_name_what_is_read(media_type: str) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        decode(one(), b"", media_type)
    assert caught.value.message == (
        f"Content-Type '{media_type}' is not read;"
        " model 'm' reads application/json, application/jsonlines, text/csv, text/libsvm, "
        "application/x-recordio-protobuf, application/vnd.apache.arrow.stream, application/x-npy, application/octet-stream"
    )


@pytest.mark.parametrize("media_type", ["text/csv", "text/libsvm", "application/x-npy", "application/octet-stream"])
def test_formats_of_one_input_are_not_read_for_several(media_type: str) -> None:
    with pytest.raises(
        UnsupportedMediaType,
        match=r"reads application/json, application/jsonlines, application/x-recordio-protobuf, [a-z/.]+$",
    ):
        registry.decoder(InputPlan(TWO, "m"), media_type, None)


def test_csv_is_not_read_for_tensors_of_higher_rank() -> None:
    with pytest.raises(UnsupportedMediaType, match=r"reads application/json, application/jsonlines, application/x-rec"):
        registry.decoder(InputPlan(one("FP32", -1, 3, 4, 4), "m"), "text/csv", None)


@pytest.mark.parametrize(
    ("names", "accept"),
    [(jsonlines.MEDIA_TYPES, b"application/jsonlines"), (libsvm.MEDIA_TYPES, b"")],
)
def test_names_of_one_format(names: tuple[str, ...], accept: bytes) -> None:
    for name in names:
        assert decode(one(), b"[1,2,3]" if accept else b"1 1:2", name.upper())[0] == 1
        if accept:
            fields, _ = registry.encoder(one(), "m", "1", name)([np.ones((1, 2), np.float32)], None)
            assert fields == b"content-type: %b\r\n" % accept


@pytest.mark.parametrize("size", ["0", "1", '"1"', " 1"])
def test_a_label_size_changes_nothing(size: str) -> None:
    assert decode(one(), b"1,2,3\n", f"text/csv; charset=utf-8; Label_Size={size}")[0] == 1


@pytest.mark.parametrize("size", ["2", "-1", "", "x", "1=1"])
def test_other_label_sizes_are_refused(size: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=r"label_size '.*'; 0 or 1"):
        decode(one(), b"1,2,3\n", f"text/csv;label_size={size}")


V2 = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}'


@pytest.mark.parametrize(
    "media_type", ["", "application/json", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_the_v2_routes_read_v2_json(media_type: str) -> None:
    assert decode(one(), V2, media_type, v2=True)[0] == 1


def test_the_v2_routes_read_nothing_else() -> None:
    with pytest.raises(UnsupportedMediaType, match="application/json"):
        decode(one(), b"1,2,3\n", "text/csv", v2=True)


@pytest.mark.parametrize("accept", [None, "application/json", "application/octet-stream", "*/*"])
def test_a_v2_question_gets_a_v2_answer(accept: str | None) -> None:
    outputs = [np.array([[1, 2]], np.float32)]
    for v2 in (True, False):
        encode = registry.encoder(one(), "m", "1", accept, face_v2=v2)
        _, body = encode(outputs, Asked(Style.OPEN_INFERENCE))
        assert body == (
            b'{"model_name":"m","model_version":"1",'
            b'"outputs":[{"name":"p","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}'
        )
    with pytest.raises(NotAcceptable):
        registry.encoder(one(), "m", "1", "text/csv", face_v2=True)
