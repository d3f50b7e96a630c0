"""The speech sample: a voice that is the same everywhere, as a file that the server reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serving.codecs import wav
from serving.errors import ArtifactError, MissingExtra
from serving.samples import speech


def test_the_voice_is_the_same_on_every_call_and_within_bounds() -> None:
    voice = speech.vowels(0.25)
    assert voice.dtype == np.float32
    assert voice.shape == (4000,)
    assert np.abs(voice).max() == pytest.approx(0.4)
    np.testing.assert_array_equal(voice, speech.vowels(0.25))


def test_the_command_writes_a_file_that_the_codec_reads() -> None:
    result = CliRunner().invoke(speech.main, ["wav", "--seconds", "0.25"])
    assert result.exit_code == 0
    samples = wav.read(result.stdout_bytes, speech.RATE)
    np.testing.assert_allclose(samples, speech.vowels(0.25), atol=1e-4)


def test_a_missing_package_is_named_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(MissingExtra, match="pip install --no-deps silero-vad"):
        speech.make(tmp_path)
    (tmp_path / "silero_vad").mkdir()
    (tmp_path / "silero_vad" / "__init__.py").write_text("raise AssertionError('it is not to be run')")
    with pytest.raises(ArtifactError, match=r"silero_vad\.onnx as version 6 does"):
        speech.make(tmp_path)
