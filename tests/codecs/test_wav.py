"""WAV bodies: every encoding to the same samples, and every fault refused in words."""

from __future__ import annotations

import io
import struct
import wave
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codecs import registry, wav
from serving.codecs.plan import InputPlan
from serving.contract import ModelSpec, TensorSpec
from serving.errors import InvalidInput, MalformedBody, ServingError, UnsupportedMediaType

RATE = 16_000


def plan(sample_rate: int = RATE) -> InputPlan:
    sound = TensorSpec("sound", "FP32", (-1,), sample_rate=sample_rate)
    return InputPlan(ModelSpec((sound,), (TensorSpec("y", "FP32", (-1,)),), "", batched=False), "m")


def file(data: bytes, code: int = 1, bits: int = 16, rate: int = RATE, channels: int = 1, before: bytes = b"") -> bytes:
    """A WAV file; `before` are chunks between its format and its data."""
    layout = struct.pack("<HHIIHH", code, channels, rate, rate * bits // 8, bits // 8, bits)
    chunks = (
        struct.pack("<4sI", b"fmt ", len(layout)) + layout + before + struct.pack("<4sI", b"data", len(data)) + data
    )
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks


@given(samples=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=50))
def test_what_the_standard_library_writes_is_read(samples: list[int]) -> None:
    made = io.BytesIO()
    with wave.open(made, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(np.array(samples, "<i2").tobytes())
    np.testing.assert_array_equal(wav.read(made.getvalue(), RATE), np.array(samples, np.float32) / 2**15)


@given(samples=st.lists(st.integers(-128, 127), min_size=1, max_size=20))
def test_every_encoding_means_the_same(samples: list[int]) -> None:
    whole = np.array(samples, np.float64) / 128
    wide = np.array(samples, "<i4") * 2**24
    encodings: dict[tuple[int, int], bytes] = {
        (1, 8): (np.array(samples) + 128).astype(np.uint8).tobytes(),
        (1, 16): (wide >> 16).astype("<i2").tobytes(),
        (1, 24): wide.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes(),
        (1, 32): wide.tobytes(),
        (3, 32): whole.astype("<f4").tobytes(),
        (3, 64): whole.tobytes(),
    }
    for (code, bits), data in encodings.items():
        np.testing.assert_array_equal(wav.read(file(data, code, bits), RATE), whole.astype(np.float32))


def test_other_chunks_and_an_unknown_length_are_no_obstacle() -> None:
    data = np.arange(5, dtype="<i2").tobytes()
    body = file(data, before=struct.pack("<4sI", b"LIST", 3) + b"abc\0")
    assert wav.read(body, RATE).size == 5
    piped = body[: -len(data) - 4] + struct.pack("<I", 0xFFFFFFFF) + data
    np.testing.assert_array_equal(wav.read(piped, RATE), wav.read(body, RATE))


def test_the_registry_reads_it_for_sound_alone() -> None:
    body = file(np.arange(4, dtype="<i2").tobytes())
    for media_type in wav.MEDIA_TYPES:
        rows, columns, signature, asked = registry.decoder(plan(), media_type, None)(body)
        assert (rows, signature, asked) == (1, ((4,),), None)
        assert len(columns[0]) == 16
    assert "audio/wav" in registry.readable(plan())
    with pytest.raises(UnsupportedMediaType):
        registry.decoder(plan(0), "audio/wav", None)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", MalformedBody, "not a WAV file"),
        (b"RIFF\0\0\0\0AVI LIST", MalformedBody, "not a WAV file"),
        (file(b"")[:20], MalformedBody, "cut off"),
        (file(b"\0\0")[:36], MalformedBody, "no data"),
        (file(b"\0\0" * 9)[:-3], MalformedBody, "cut off: its data is 18 bytes, 15 are left"),
        (file(b"\0\0\0"), MalformedBody, "whole samples of 2 bytes"),
        (file(b""), MalformedBody, "whole samples"),
        (b"RIFF\0\0\0\0WAVEdata\x02\0\0\0\0\0", MalformedBody, "data before its format"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\0\0", MalformedBody, "format of the WAV file has 2 bytes"),
        (file(b"\0\0", channels=2), InvalidInput, "2 channels; 1 was expected"),
        (file(b"\0\0", rate=44_100), InvalidInput, "44100 samples a second; 16000 were expected"),
        (file(b"\0\0", code=7, bits=8), InvalidInput, "format 7 with 8 bits"),
        (file(struct.pack("<f", float("nan")), code=3, bits=32), InvalidInput, "sample 0 of the WAV file is no finite"),
    ],
)
def test_faults(body: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wav.read(body, RATE)


@given(body=st.binary(max_size=200), cut=st.integers(0, 200))
def test_any_bytes_are_samples_or_an_error_of_ours(body: bytes, cut: int) -> None:
    for data in (body, b"RIFF\0\0\0\0WAVE" + body, file(body)[:cut]):
        try:
            found: Any = wav.read(data, RATE)
        except ServingError:
            continue
        assert found.dtype == np.float32
        assert found.size
