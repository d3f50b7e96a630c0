"""The file-type sample: its features are Magika's own, and its answers are known."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from magika import Magika
from magika.types import Seekable

from serving.errors import ArtifactError, MissingExtra
from serving.samples import file_type


def png(width: int = 32, height: int = 32) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = b"".join(b"\0" + bytes(range(width)) for _ in range(height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


SCRIPT = b"""\
import sys
from pathlib import Path


def count(path: Path) -> int:
    with path.open() as file:
        return sum(1 for line in file if line.strip())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, count(Path(name)))
"""

KNOWN = {
    "python": SCRIPT,
    "json": b'{"name": "Alice", "age": 30, "items": [1, 2, 3]}',
    "png": png(),
    "sql": b"SELECT id, name FROM users WHERE age > 30 ORDER BY name;\n",
}
LEAST_SCORE = {"python": 0.95, "json": 0.8, "png": 0.99, "sql": 0.99}


@pytest.fixture(scope="module")
def session(samples: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(samples / "file-type" / "model.onnx")


@pytest.fixture(scope="module")
def magika() -> Magika:
    return Magika()


@pytest.mark.parametrize(
    "content",
    [
        *KNOWN.values(),
        b"12345678",
        b"  \n\t12345678 \r\n",
        b"x" * 1023,
        b"x" * 1024 + b"   ",
        b" " * 5 + b"ab" * 2040,
        b" " * 3000 + b"start" * 1000 + b"end" + b"\n" * 3500,
        b"start" * 4000 + b" " * 5000,
        bytes(range(256)) * 40,
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_the_features_are_those_that_magika_computes(content: bytes, magika: Magika) -> None:
    config = magika._model_config
    theirs = magika._extract_features_from_seekable(
        Seekable(BytesIO(content)),
        config.beg_size,
        config.mid_size,
        config.end_size,
        config.padding_token,
        config.block_size,
        config.use_inputs_at_offsets,
    )
    ours = file_type.features(content)
    assert ours.dtype == np.int32
    assert ours.tolist() == theirs.beg + theirs.end


@pytest.mark.parametrize("content", [b"", b"1234567", b" " * 100, b" 123456 "])
def test_content_that_is_too_short_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="at least 8 bytes"):
        file_type.features(content)


@pytest.mark.parametrize("kind", KNOWN)
def test_known_answers(kind: str, session: onnxruntime.InferenceSession, magika: Magika) -> None:
    (scores,) = session.run(None, {"bytes": file_type.features(KNOWN[kind])[None]})
    label, score = file_type.label(scores[0], file_type.labels())
    theirs = magika.identify_bytes(KNOWN[kind])
    assert label == kind == theirs.dl.label
    assert score >= LEAST_SCORE[kind]
    assert score == pytest.approx(theirs.score, abs=1e-3)


def test_a_score_for_every_label_is_expected() -> None:
    with pytest.raises(ValueError, match="214 scores were expected"):
        file_type.label([0.5, 0.5], file_type.labels())


def test_the_folder_holds_the_labels(samples: Path) -> None:
    labels = json.loads((samples / "file-type" / "labels.json").read_text())
    assert len(labels) == 214
    assert tuple(labels) == file_type.labels()


def test_it_is_made_once_and_mended(tmp_path: Path) -> None:
    assert file_type.make(tmp_path)
    assert not file_type.make(tmp_path)
    (tmp_path / "file-type" / "model.onnx").write_bytes(b"cut short")
    assert file_type.make(tmp_path)
    assert not file_type.make(tmp_path)


def test_without_magika_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"install serving\[samples\]"):
        file_type.labels()


def test_a_magika_with_other_features_is_refused(tmp_path: Path) -> None:
    recipe = {"beg_size": 2048, "mid_size": 0, "end_size": 0, "block_size": 4096, "padding_token": 256}
    (tmp_path / "config.min.json").write_text(json.dumps({**recipe, "target_labels_space": ["python"]}))
    with pytest.raises(ArtifactError, match="other features"):
        file_type._recipe(tmp_path)


def test_the_client_writes_the_request_and_reads_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "query.sql"
    file.write_bytes(KNOWN["sql"])
    request = CliRunner().invoke(file_type.main, ["body", str(file)])
    assert json.loads(request.output) == {"instances": [file_type.features(KNOWN["sql"]).tolist()]}

    scores = [1.0 if label == "sql" else 0.0 for label in file_type.labels()]
    answer = CliRunner().invoke(file_type.main, ["label"], input=json.dumps({"predictions": [scores]}))
    assert answer.output == "sql 1.0000\n"


@pytest.mark.parametrize("text", ["", '{"error": "overloaded"}', '{"predictions": [[0.5]]}'])
def test_the_client_shows_an_answer_that_it_cannot_read(text: str) -> None:
    answer = CliRunner().invoke(file_type.main, ["label"], input=text)
    assert answer.exit_code == 1
    assert "not an answer of the file-type model" in answer.output
    assert text in answer.output
