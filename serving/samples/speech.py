"""The `speech` sample: Silero VAD, which tells in every 32 ms of sound how likely somebody speaks, part by part.

Input `input` float32[samples] at 16 kHz, as JSON, NPY, raw floats or a WAV file; output `output` float32[chunks, 1], a
probability for each 512 samples. The model comes out of the PyPI package silero-vad (MIT), which asks for PyTorch though
the model needs none: it is installed without its dependencies.

    python -m serving.samples.speech wav | curl ... --data-binary @-
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any, Final

import click

from serving.errors import ArtifactError, MissingExtra
from serving.samples import folder

if TYPE_CHECKING:
    import numpy as np

NAME: Final = "speech"

RATE: Final = 16_000
"""Samples a second."""

CHUNK: Final = 512
"""Samples of one part of the answer."""

CONTEXT: Final = 64
"""Samples of the chunk before that the model sees again."""

CONFIG: Final = f"""\
name: {NAME}
container: onnx
version: "1"
onnx:
  recurrent:
    input: input
    chunk: {CHUNK}
    context: {CONTEXT}
    state: {{state: stateN}}
    constants: {{sr: {RATE}}}
    sample_rate: {RATE}
"""

INSTALL: Final = "pip install --no-deps silero-vad"

MOUTHS: Final = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""Resonances in Hz of the vowels of father, see, food and bed (Peterson and Barney, 1952)."""


def make(root: Path) -> bool:
    """Makes `root/speech` unless it is there already; tells whether it had to. Raises `MissingExtra`, `ArtifactError`."""
    target, source = root / NAME, _source()
    try:
        files = {"model.onnx": source.read_bytes(), "model.yaml": CONFIG.encode()}
    except OSError as error:
        raise ArtifactError(f"silero-vad was expected to hold {source} as version 6 does: {error.strerror}") from error
    if folder.holds(target, files):
        return False
    folder.write(target, files)
    return True


def vowels(seconds: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A voice that sings four vowels a second: float32[samples] at `RATE`, the same on every call.

    Harmonics of a wavering pitch, each as loud as the three resonances of the mouth make it.
    """
    import numpy as np

    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 2.3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    mouths = np.array(MOUTHS, float)
    vowel = (time * 4).astype(int)
    between = (time * 4 - vowel)[:, None]
    resonances = mouths[vowel % 4] * (1 - between) + mouths[(vowel + 1) % 4] * between
    sound = np.zeros_like(time)
    for harmonic in range(1, 30):
        loudness = np.zeros_like(time)
        for number, (peak, width) in enumerate(((1.0, 60.0), (0.6, 90.0), (0.3, 120.0))):
            loudness += peak / (1 + ((harmonic * pitch - resonances[:, number]) / width) ** 2)
        sound += loudness / harmonic**0.5 * np.sin(harmonic * phase)
    sound *= 0.5 - 0.5 * np.cos(2 * np.pi * 4 * time)
    loud = 0.4 * sound / np.abs(sound).max()
    return np.asarray(loud, np.float32)


def wav(samples: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """Samples from -1 to 1 as a WAV file of 16-bit PCM."""
    data = (samples * 32767).round().astype("<i2").tobytes()
    layout = pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        pack("<4sI4s", b"RIFF", 4 + len(layout) + 8 + len(data), b"WAVE")
        + layout
        + pack("<4sI", b"data", len(data))
        + data
    )


def calls(url: str, python: str) -> str:
    """Shell commands that stream the sample's answer at `url`: curl with a WAV file, and boto3 run by `python`."""
    return f"""\
# is somebody speaking? A probability for each 32 ms, as they come: server-sent events, then SageMaker's event stream
{python} -c 'import json; from serving.samples import speech; print(json.dumps({{"input": speech.vowels(0.5).tolist()}}))' \\
    | curl -sN {url}/v2/models/{NAME}/generate_stream -H 'Content-Type: application/json' --data-binary @-

{python} - <<'END'
import boto3
from serving.samples import speech
runtime = boto3.client("sagemaker-runtime", endpoint_url="{url}", region_name="us-east-1",
                       aws_access_key_id="any", aws_secret_access_key="any")
answer = runtime.invoke_endpoint_with_response_stream(EndpointName="{NAME}", ContentType="audio/wav",
                                                      Accept="text/csv", Body=speech.wav(speech.vowels(0.5)))
for event in answer["Body"]:
    print(event["PayloadPart"]["Bytes"].decode(), end="")
END
"""


def _source() -> Path:
    # Finding a package does not run it, and its own import asks for PyTorch.
    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(f"the {NAME} sample is the model of the package silero-vad: {INSTALL}")
    return Path(found.submodule_search_locations[0]) / "data" / "silero_vad.onnx"


@click.group()
def main() -> None:
    """What a caller of the speech sample sends."""


@main.command("wav")
@click.option("--seconds", default=1.5, show_default=True, help="How long the voice sings.")
def print_wav(seconds: float) -> None:
    """Writes a WAV file of a synthetic voice to standard output."""
    sys.stdout.buffer.write(wav(vowels(seconds)))


if __name__ == "__main__":
    main()
