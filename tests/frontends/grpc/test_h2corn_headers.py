"""The headers of a call and the trailers of its answer."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequest, Overloaded
from serving.frontends.grpc.headers import Metadata, is_grpc, timeout_of, trailers_of


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"2H", 7200),
        (b"3M", 180),
        (b"4S", 4),
        (b"1500m", 1.5),
        (b"250u", 250e-6),
        (b"99999999n", 0.099999999),
        (b"0S", 0),
    ],
)
def test_a_timeout(value: bytes, seconds: float) -> None:
    assert timeout_of(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"1s", b"-1S", b"1.5S", b"123456789S", b"1S ", b" 1S", b"1SS", b"\xff"]
)
def test_a_timeout_that_is_none(value: bytes) -> None:
    with pytest.raises(BadRequest, match="grpc-timeout is"):
        timeout_of(value)


@pytest.mark.parametrize("value", [b"application/grpc", b"application/grpc+proto", b"Application/gRPC; charset=utf-8"])
def test_what_is_grpc(value: bytes) -> None:
    assert is_grpc(value)


@pytest.mark.parametrize("value", [b"", b"application/json", b"application/grpc+json", b"application/grpc-web"])
def test_what_is_not_grpc(value: bytes) -> None:
    assert not is_grpc(value)


def test_metadata_is_what_is_not_the_protocols_own() -> None:
    fields = [(b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"grpc-timeout", b"1S"), (b"mine", b"yes")]
    assert dict(Metadata(fields)) == {"mine": "yes"}


def test_values_of_one_key_are_joined() -> None:
    assert Metadata([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])["a"] == "1,3"


@given(value=st.binary(), padded=st.booleans())
def test_binary_metadata(value: bytes, padded: bool) -> None:
    coded = b64encode(value)
    assert Metadata([(b"a-bin", coded if padded else coded.rstrip(b"="))])["a-bin"] == value


def test_binary_metadata_that_is_none_is_left_out() -> None:
    assert not Metadata([(b"a-bin", b"not base64!")])


@given(message=st.text(min_size=1, max_size=200))
def test_a_message_survives_its_trailer(message: str) -> None:
    trailers = dict(trailers_of(BadRequest(message)))
    assert trailers[b"grpc-status"] == b"3"
    coded = trailers[b"grpc-message"]
    assert all(0x20 <= byte < 0x7F for byte in coded)
    assert unquote(coded.decode(), errors="strict") == BadRequest(message).message


def test_when_to_try_again() -> None:
    assert (b"grpc-retry-pushback-ms", b"1500") in trailers_of(Overloaded("later", retry_after_s=1.5))
