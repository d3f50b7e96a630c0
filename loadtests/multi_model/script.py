"""What a plain script does to get an answer of a model: the yardstick, a program of its own that takes orders by line.

`python -m loadtests.multi_model.script BUCKET` reads {"how", "what"} as JSON from its standard input and answers each with the
seconds that it took, part by part. `session` makes a session of the file `what`; `obstore` and `boto3` get the object `what`
of the bucket, extract it to disk, make a session, run it once and keep it, as the server does: memory that a process has
not had yet costs more than the session.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import boto3
import onnxruntime
from botocore.config import Config
from obstore.store import S3Store

from loadtests.multi_model import wide

Parts = dict[str, float]


def session(path: str) -> onnxruntime.InferenceSession:
    """As the server makes its own: one thread that does not spin, everything optimised."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def timed_session(path: str) -> Parts:
    """A session of a file, which goes again."""
    began = perf_counter()
    made = session(path)
    took = perf_counter() - began
    del made
    return {"session": took}


def timed_miss(get: Callable[[str], bytes], key: str, folder: Path, kept: list[Any]) -> Parts:
    """From the store to an answer."""
    moments = [perf_counter()]
    packed = get(key)
    moments.append(perf_counter())
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "object").write_bytes(packed)
    with tarfile.open(place / "object", "r:gz") as tar:
        tar.extractall(place, filter="data")
    moments.append(perf_counter())
    made = session(str(place / wide.FILE))
    moments.append(perf_counter())
    made.run(None, wide.feed())
    moments.append(perf_counter())
    kept.append(made)
    names = ("get", "extract", "session", "run")
    return {name: moments[place + 1] - moments[place] for place, name in enumerate(names)}


def getters(bucket: str) -> dict[str, Callable[[str], bytes]]:
    """Two clients of the store that the environment names, as anybody would make them."""
    plain: Any = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    store = S3Store(bucket, virtual_hosted_style_request=False, client_options={"allow_http": True})
    return {
        "boto3": lambda key: plain.get_object(Bucket=bucket, Key=key)["Body"].read(),
        "obstore": lambda key: bytes(store.get(key).bytes()),
    }


def main(bucket: str) -> int:
    """Answers until its standard input ends."""
    get = getters(bucket)
    kept = list[Any]()
    with tempfile.TemporaryDirectory(prefix="bench-script-") as folder:
        for line in sys.stdin:
            order = json.loads(line)
            if order["how"] == "session":
                parts = timed_session(order["what"])
            else:
                parts = timed_miss(get[order["how"]], order["what"], Path(folder), kept)
            print(json.dumps(parts), flush=True)
    return 0


class Script:
    """The program at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __enter__(self) -> Self:
        return self

    def time(self, how: str, what: str) -> Parts:
        """How long that took it, in seconds. Raises RuntimeError where it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"how": how, "what": what}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the script failed at {how} {what}; what it said is above")
        parts: Parts = json.loads(line)
        return parts


@contextlib.contextmanager
def running(bucket: str, environment: dict[str, str], core: int) -> Iterator[Script]:
    """The script on one core, from its start to its end."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "loadtests.multi_model.script", bucket]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield Script(process)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
