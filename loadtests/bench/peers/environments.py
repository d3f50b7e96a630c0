"""Makes each peer's environment on demand and starts the peer on one model."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.bench.models import ENCODER, BenchModel
from loadtests.bench.protocols import MOSEC, V2_JSON, Protocol
from loadtests.bench.servers import Launch, Server, free_port, running

HERE = Path(__file__).parent
INSTALL_LIMIT_S = 600
BATCH = 16


class CannotInstall(Exception):
    """A peer's environment could not be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server. `launch` gets its environment, the model, the model's file, a port and a scratch folder."""

    name: str
    protocol: Protocol
    launch: Callable[[Path, BenchModel, Path, int, Path], Launch]

    @property
    def requirements(self) -> Path:
        """The pinned packages of its environment."""
        return HERE / f"{self.name}.txt"

    @contextlib.contextmanager
    def running(self, environment: Path, model: BenchModel, path: Path, cores: str) -> Iterator[Server]:
        """The peer serving one model."""
        port = free_port()
        with tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-") as scratch:
            launch = self.launch(environment, model, path.resolve(), port, Path(scratch))
            with running(self.name, launch, port, cores) as server:
                yield server


def _mosec(environment: Path, model: BenchModel, path: Path, port: int, scratch: Path) -> Launch:
    command = [str(environment / "bin" / "python"), str(HERE / "mosec_app.py"), "--address", "127.0.0.1"]
    command += ["--port", str(port), "--path", str(scratch / "sockets"), "--log-level", "warning"]
    batch = BATCH if model is ENCODER else 1
    return Launch(command, "/metrics", {"BENCH_MODEL": str(path), "BENCH_BATCH": str(batch)})


def _mlserver(environment: Path, model: BenchModel, path: Path, port: int, scratch: Path) -> Launch:
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,  # a second process only costs on one core
        "debug": False,
        "logging_settings": None,
    }
    served: dict[str, Any] = {
        "name": model.name,
        "implementation": "mlserver_runtime.OnnxModel",
        "parameters": {"uri": str(path)},
    }
    if model is ENCODER:
        served |= {"max_batch_size": BATCH, "max_batch_time": 0.001}
    (scratch / "settings.json").write_text(json.dumps(settings))
    (scratch / "model-settings.json").write_text(json.dumps(served))
    command = [str(environment / "bin" / "mlserver"), "start", str(scratch)]
    return Launch(command, f"/v2/models/{model.name}/ready", {"PYTHONPATH": str(HERE)})


PEERS = (Peer("mosec", MOSEC, _mosec), Peer("mlserver", V2_JSON, _mlserver))


def environment(peer: Peer, folder: Path) -> Path:
    """The peer's environment in `folder`, made when missing or its requirements changed. Raises `CannotInstall`."""
    home = (folder / peer.name).resolve()
    wanted = peer.requirements.read_text()
    stamp = home / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return home
    try:
        venv.create(home, clear=True, with_pip=True)
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*command, "-r", str(peer.requirements)],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
        )
    except subprocess.CalledProcessError as error:
        reason = (str(error.stderr or error.stdout).strip().splitlines() or ["it printed nothing"])[-1]
        raise CannotInstall(f"{peer.name} could not be installed from {peer.requirements.name}: {reason}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotInstall(f"{peer.name} was not installed within {INSTALL_LIMIT_S} s") from error
    stamp.write_text(wanted)
    return home
