"""`audio/wav`: mono sound for a model whose only input is samples, FP32[samples] from -1 to 1.

PCM of 8, 16, 24 and 32 bits and floats of 32 and 64 bits are read; the rate and the single channel must be the model's,
since resampling and mixing are choices that belong to the caller.
Sources: RIFF and WAVE (Microsoft, Multimedia Programming Interface 1.0), WAVE_FORMAT_EXTENSIBLE.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

import numpy as np

from serving.codecs.base import Buffer, Decode, Decoded
from serving.codecs.plan import InputPlan, Tensor
from serving.errors import InvalidInput, MalformedBody

MEDIA_TYPES: Final = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FORMAT: Final = Struct("<HHIIHH")
_CHUNK: Final = Struct("<4sI")
_UNKNOWN_LENGTH: Final = 0xFFFFFFFF
"""What programs that write to a pipe leave there: the data goes on to the end."""


def readable(plan: InputPlan) -> bool:
    """Whether the model's only input is sound."""
    return plan.single is not None and plan.single.sample_rate > 0


def decoder(plan: InputPlan) -> Decode:
    """The decoder for a model whose only input has a `sample_rate`."""
    tensor = plan.only("audio/wav")

    def decode(body: Buffer) -> Decoded:
        samples = read(bytes(body), tensor.sample_rate)
        return *plan.assemble([Tensor(tensor.name, None, samples.shape, samples.tobytes())]), None

    return decode


def read(body: bytes, sample_rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The samples of a file: float32[samples]. Raises `MalformedBody`, and `InvalidInput` for sound of another kind."""
    if len(body) < 12 or body[:4] != b"RIFF" or body[8:12] != b"WAVE":
        raise MalformedBody(f"the body is not a WAV file: it begins with {body[:12]!r}; RIFF and WAVE were expected")
    at = 12
    encoding: tuple[int, int] | None = None
    while at + _CHUNK.size <= len(body):
        kind, size = _CHUNK.unpack_from(body, at)
        at += _CHUNK.size
        if kind == b"data":
            if encoding is None:
                raise MalformedBody("the WAV file has its data before its format")
            return _samples(body, at, len(body) - at if size == _UNKNOWN_LENGTH else size, *encoding)
        if at + size > len(body):
            raise MalformedBody(
                f"the WAV file is cut off: a chunk at byte {at} says {size} bytes, {len(body) - at} are left"
            )
        if kind == b"fmt ":
            encoding = _encoding(body[at : at + size], sample_rate)
        at += size + size % 2
    raise MalformedBody("the WAV file has no data")


def _encoding(chunk: bytes, sample_rate: int) -> tuple[int, int]:
    """Format code and bits of a sample."""
    if len(chunk) < _FORMAT.size:
        raise MalformedBody(f"the format of the WAV file has {len(chunk)} bytes; at least {_FORMAT.size} were expected")
    code, channels, rate, _, _, bits = _FORMAT.unpack_from(chunk)
    if code == _EXTENSIBLE and len(chunk) >= 26:
        code = int.from_bytes(chunk[24:26], "little")
    if (code, bits) not in {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}:
        raise InvalidInput(f"the WAV file has format {code} with {bits} bits; PCM or floats were expected")
    if channels != 1:
        raise InvalidInput(f"the WAV file has {channels} channels; 1 was expected (mix it down first)")
    if rate != sample_rate:
        raise InvalidInput(f"the WAV file has {rate} samples a second; {sample_rate} were expected (resample it first)")
    return code, bits


def _samples(body: bytes, at: int, size: int, code: int, bits: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    width = bits // 8
    if size > len(body) - at:
        raise MalformedBody(f"the WAV file is cut off: its data is {size} bytes, {len(body) - at} are left")
    if size < width or size % width:
        raise MalformedBody(f"the data of the WAV file is {size} bytes; whole samples of {width} bytes were expected")
    data = memoryview(body)[at : at + size]
    if code == _FLOAT:
        with np.errstate(over="ignore"):
            samples = np.frombuffer(data, f"<f{width}").astype(np.float32)
        if not np.isfinite(samples).all():
            raise InvalidInput(f"sample {int(np.argmin(np.isfinite(samples)))} of the WAV file is no finite number")
        return samples
    if bits == 8:
        return np.asarray(np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1, np.float32)
    if bits == 24:
        # The three bytes become the upper ones of a 32-bit sample.
        wide = np.zeros((size // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return np.asarray(wide.view("<i4").ravel() / 2**31, np.float32)
    return np.asarray(np.frombuffer(data, f"<i{width}") / 2 ** (bits - 1), np.float32)
