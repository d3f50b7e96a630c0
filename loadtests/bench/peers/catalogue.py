"""The peers: how each is started on one model, on loopback, with one worker and its own batching on encoder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.bench import protocols, servers
from loadtests.bench.models import ENCODER, BenchModel
from loadtests.bench.peers.environments import environment, version
from loadtests.bench.protocols import Protocol
from loadtests.bench.servers import CannotStart, Launch, Server, free_port

HERE = Path(__file__).parent
BATCH = 16
"""The rows that a peer may merge on encoder; fraud-mlp's run costs less than waiting for another row."""
TRITON = "2.51.0"
"""The tritonserver in the wheel of the pytriton that is pinned."""


@dataclass(frozen=True, slots=True)
class Place:
    """What one start of a peer has: its environment, the model and its file, a port, and a folder that goes away."""

    home: Path
    model: BenchModel
    path: Path
    port: int
    scratch: Path

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return self.program("python")

    @property
    def batch(self) -> int:
        """The largest batch that the peer may form."""
        return BATCH if self.model is ENCODER else 1

    @property
    def told(self) -> dict[str, str]:
        """For apps that read their model from environment variables."""
        return {"BENCH_MODEL": str(self.path), "BENCH_BATCH": str(self.batch), "PYTHONPATH": str(HERE)}

    def program(self, name: str) -> str:
        """A command of the environment."""
        return str(self.home / "bin" / name)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server. Peers with the same requirements share an environment."""

    name: str
    title: str
    protocol: Protocol
    launch: Callable[[Place], Launch]
    needs: str

    @property
    def requirements(self) -> Path:
        """The exact versions of its environment; the first line is the peer's own package."""
        return HERE / f"{self.needs}.txt"

    @property
    def system(self) -> str:
        """Its name in the report: title, version, and the protocol where it speaks a common one."""
        return f"{self.title} {self.protocol.name}" if self.protocol.name.startswith("v") else self.title

    def environment(self, folder: Path) -> Path:
        """Its environment under `folder`. Raises `CannotInstall`."""
        return environment(self.requirements, folder)

    @contextlib.contextmanager
    def running(self, home: Path, model: BenchModel, path: Path, cores: str) -> Iterator[Server]:
        """The peer serving one model. Raises `CannotStart`."""
        with tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-") as scratch:
            place = Place(home, model, path.resolve(), low_port(), Path(scratch))
            launch = self.launch(place)
            # What a peer leaves in the folder for temporary files (process ids, sockets, unpacked servers) goes too.
            settings = {"TMPDIR": scratch, "TEMP": scratch, "HOME": scratch, **launch.environment}
            launch = Launch(launch.command, launch.ready_path, settings, launch.register_path)
            with servers.running(self.name, launch, place.port, cores) as server:
                yield server


def low_port() -> int:
    """A free port below 32768: multi-model-server holds port numbers in 16 bits with a sign."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.randrange(20000, 32768)))
            return int(probe.getsockname()[1])


def _mosec(place: Place) -> Launch:
    command = [place.python, str(HERE / "mosec_app.py"), "--address", "127.0.0.1", "--port", str(place.port)]
    command += ["--path", str(place.scratch / "sockets"), "--log-level", "warning"]
    return Launch(command, "/metrics", place.told)


def _mlserver(place: Place) -> Launch:
    settings = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,  # a second process only costs on one core
        "debug": False,
        "logging_settings": None,
    }
    served: dict[str, Any] = {
        "name": place.model.name,
        "implementation": "mlserver_runtime.Runtime",
        "parameters": {"uri": str(place.path)},
    }
    if place.batch > 1:
        served |= {"max_batch_size": place.batch, "max_batch_time": 0.001}
    (place.scratch / "settings.json").write_text(json.dumps(settings))
    (place.scratch / "model-settings.json").write_text(json.dumps(served))
    return Launch(
        [place.program("mlserver"), "start", str(place.scratch)], f"/v2/models/{place.model.name}/ready", place.told
    )


def _litserve(place: Place) -> Launch:
    command = [place.python, str(HERE / "litserve_app.py"), str(place.path), str(place.port), str(place.batch)]
    return Launch(command, "/health")


def _bentoml(place: Place) -> Launch:
    command = [place.program("bentoml"), "serve", "bentoml_service:Service", "--working-dir", str(HERE)]
    command += ["--host", "127.0.0.1", "--port", str(place.port)]
    return Launch(command, "/readyz", {**place.told, "BENTOML_DO_NOT_TRACK": "True"})


def _kserve(place: Place) -> Launch:
    command = [place.python, str(HERE / "kserve_app.py"), str(place.path), place.model.name, str(place.port)]
    return Launch(command, f"/v2/models/{place.model.name}/ready")


def _pytriton(place: Place) -> Launch:
    command = [place.python, str(HERE / "pytriton_app.py"), str(place.path), place.model.name, str(BATCH)]
    command += [str(place.port), str(free_port()), str(free_port())]
    # A home of its own, so that the server that it unpacks goes with the scratch folder.
    settings = _python_library() | {"PYTRITON_HOME": str(place.scratch / "pytriton")}
    return Launch(command, f"/v2/models/{place.model.name}/ready", settings)


def _triton(place: Place) -> Launch:
    """The tritonserver of pytriton's wheel, without pytriton: its Python backend is put together as it expects it."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = place.home / "lib" / f"python{minor}" / "site-packages" / "pytriton" / "tritonserver"
    backend = place.scratch / "backends" / "python"
    backend.mkdir(parents=True)
    for source in (server / "backends" / "python").iterdir():
        (backend / source.name).symlink_to(source)
    stub = "triton_python_backend_stub"
    (backend / stub).symlink_to(server / "python_backend_stubs" / minor / stub)
    name = place.model.name
    served = place.scratch / "models" / name
    (served / "1").mkdir(parents=True)
    (served / "1" / "model.py").symlink_to(HERE / "triton_model.py")
    width = place.model.rows(1).shape[1]
    (served / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: {BATCH}\n'
        f'input [{{name: "{place.model.input_name}" data_type: TYPE_{place.model.datatype} dims: [{width}]}}]\n'
        f'output [{{name: "{place.model.output_name}" data_type: TYPE_FP32 dims: [-1]}}]\n'
        "instance_group [{kind: KIND_CPU count: 1}]\ndynamic_batching {}\n"
    )
    command = [str(server / "bin" / "tritonserver"), "--http-address", "127.0.0.1", "--http-port", str(place.port)]
    command += ["--model-repository", str(place.scratch / "models"), "--backend-directory", str(backend.parent)]
    command += ["--allow-grpc", "false", "--allow-metrics", "false", "--log-info", "false", "--log-warning", "false"]
    settings = _python_library() | {
        "BENCH_MODEL": str(place.path),
        "BENCH_PEERS": str(HERE),
        # The backend's interpreter finds its packages through the first python on the path.
        "PATH": f"{place.home / 'bin'}:{os.environ['PATH']}",
    }
    return Launch(command, f"/v2/models/{name}/ready", settings)


def _python_library() -> dict[str, str]:
    """Where the interpreter's own libpython lies.

    Triton's Python backend links libpython dynamically. With another 3.11 of the system before this one, an older
    library would run a newer standard library, and end with "RLock has no attribute _recursion_count".
    """
    return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR") or "")}


def _torchserve(place: Place) -> Launch:
    name = place.model.name
    served = {"defaultVersion": True, "marName": name, "minWorkers": 1, "maxWorkers": 1, "responseTimeout": 60}
    served |= {"batchSize": place.batch, "maxBatchDelay": 1}
    settings = {
        "inference_address": f"http://127.0.0.1:{place.port}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "default_workers_per_model": 1,
        "number_of_netty_threads": 1,
        "job_queue_size": 1000,
        "disable_system_metrics": "true",
        "models": json.dumps({name: {"1.0": served}}),
    }
    command = [
        place.program("torchserve"),
        "--no-config-snapshots",
        "--disable-token-auth",
        "--models",
        f"{name}={name}",
    ]
    return Launch([*command, *_java(place, "--ts-config", settings)], "/ping")


def _multi_model_server(place: Place) -> Launch:
    # Management on the same port, since a batch size can only be given when a model is registered.
    address = f"http://127.0.0.1:{place.port}"
    settings = {
        "inference_address": address,
        "management_address": address,
        "default_workers_per_model": 1,
        "number_of_netty_threads": 1,
        "job_queue_size": 1000,
    }
    name = place.model.name
    register = f"/models?url={name}&model_name={name}&batch_size={place.batch}&max_batch_delay=1"
    command = [place.program("multi-model-server"), *_java(place, "--mms-config", settings)]
    return Launch(command, "/ping", register_path=f"{register}&initial_workers=1&synchronous=true")


def _java(place: Place, flag: str, settings: dict[str, Any]) -> list[str]:
    """The arguments that both Java servers take, with a model store of one unpacked archive."""
    if shutil.which("java") is None:
        raise CannotStart("java is not installed: `apt-get install openjdk-17-jre-headless` (or your system's package)")
    model = {"modelName": place.model.name, "modelVersion": "1.0", "handler": "java_handler:handle"}
    manifest = {"runtime": "python", "model": {**model, "serializedFile": "model.onnx"}, "archiverVersion": "1.0"}
    store = place.scratch / "store"
    archive = store / place.model.name
    (archive / "MAR-INF").mkdir(parents=True)
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (archive / "model.onnx").symlink_to(place.path)
    for file in ("java_handler.py", "onnx_model.py"):
        (archive / file).symlink_to(HERE / file)
    config = place.scratch / "config.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    command = ["--start", "--foreground", "--model-store", str(store), flag, str(config)]
    return [*command, "--log-config", str(HERE / "java_logging.xml")]


def _peer(name: str, title: str, protocol: Protocol, launch: Callable[[Place], Launch], needs: str = "") -> Peer:
    requirements = HERE / f"{needs or name}.txt"
    return Peer(name, f"{title} {TRITON if needs else version(requirements)}", protocol, launch, needs or name)


PEERS = (
    _peer("mosec", "mosec", protocols.MOSEC, _mosec),
    _peer("triton", "Triton Python backend", protocols.V2_JSON, _triton, needs="pytriton"),
    _peer("pytriton", "pytriton", protocols.V2_JSON, _pytriton),
    _peer("mlserver", "MLServer", protocols.V2_JSON, _mlserver),
    _peer("kserve", "KServe SDK", protocols.V1_JSON, _kserve),
    _peer("multi-model-server", "multi-model-server", protocols.PREDICTIONS, _multi_model_server),
    _peer("torchserve", "TorchServe", protocols.PREDICTIONS, _torchserve),
    _peer("litserve", "LitServe", protocols.ROW, _litserve),
    _peer("bentoml", "BentoML", protocols.ROWS, _bentoml),
)
