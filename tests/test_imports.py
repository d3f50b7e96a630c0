"""Imports run downward only, ML frameworks stay out of the server, and private names of uvicorn in one module."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

LEVELS = (
    ("errors", "settings", "telemetry"),
    ("contract", "payload", "datatypes"),
    ("codecs", "objects"),
    ("containers", "compilers"),
    ("runtime",),
    ("control", "jobs", "autoscaling", "capture"),
    ("frontends",),
    ("processes",),
    ("samples", "cli"),
)
"""Rooms from the lowest floor to the highest; rooms of one floor may use each other, in one direction."""

FLOOR = {room: floor for floor, rooms in enumerate(LEVELS) for room in rooms}

FRAMEWORKS = frozenset(
    {"catboost", "jax", "joblib", "keras", "lightgbm", "magika", "onnx", "onnxruntime", "openvino"}
    | {"scipy", "skl2onnx", "sklearn", "tensorflow", "tensorrt", "torch", "transformers", "treelite", "xgboost"}
)
WEB = frozenset({"h11", "httptools", "starlette", "uvicorn"})
WEB_ROOMS = frozenset({"frontends", "processes"})
UVICORN_INTERNALS = "uvicorn.protocols"
LANE = "serving.frontends.http.lane"


class Import(NamedTuple):
    """One imported module, and whether the import waits inside a function."""

    module: str
    line: int
    lazy: bool


def imports(module: str, source: str, is_package: bool) -> Iterator[Import]:
    """Every import in a module, in absolute names; `from a import b` counts as a.b, module or not."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parts = module.split(".")
                    package = parts[: len(parts) - child.level + is_package]
                    base = ".".join([*package, base] if base else package)
                yield from (Import(f"{base}.{alias.name}", child.lineno, lazy) for alias in child.names)
            else:
                yield from walk(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return walk(ast.parse(source), False)


def room(module: str) -> str | None:
    """The room of one of our modules: `runtime` for serving.runtime.batcher; None for `serving` itself and others'."""
    parts = module.split(".")
    if parts[0] in ("containers", "compilers"):
        return parts[0]
    return parts[1] if parts[0] == "serving" and len(parts) > 1 and not parts[1].startswith("__") else None


def violations(sources: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with the imports of `sources` (module name to text; `packages` are those from an __init__.py)."""
    found: list[str] = []
    uses: dict[str, set[str]] = {}
    for module, source in sources.items():
        here = room(module)
        if here is not None and here not in FLOOR:
            found.append(f"{module}: the room {here} is on no floor; put it into LEVELS")
            continue
        for imported, line, lazy in imports(module, source, module in packages):
            where, top = f"{module}:{line} imports {imported}", imported.split(".")[0]
            there = room(imported)
            if top in ("tests", "loadtests"):
                found.append(f"{where}, which is not part of the server")
            elif there is not None and there not in FLOOR:
                found.append(f"{where}: the room {there} is on no floor; put it into LEVELS")
            elif there is not None and there != here:
                if here is None or FLOOR[there] > FLOOR[here]:
                    found.append(f"{where}, which is above it")
                elif there in ("containers", "compilers"):
                    found.append(f"{where}; containers are found by entry point")
                elif FLOOR[there] == FLOOR[here]:
                    uses.setdefault(here, set()).add(there)
            elif top in FRAMEWORKS and here not in ("containers", "compilers") and not (here == "samples" and lazy):
                found.append(f"{where}, an ML framework")
            elif top in WEB and here not in WEB_ROOMS:
                found.append(f"{where}, a web library")
            if f"{imported}.".startswith(f"{UVICORN_INTERNALS}.") and module != LANE:
                found.append(f"{where}, an internal of uvicorn that only {LANE} may touch")
    found += [f"{a} and {b} import each other" for a in uses for b in uses[a] if a < b and a in uses.get(b, ())]
    return found


def test_the_tree_has_no_violation() -> None:
    files = [path for top in ("serving", "containers", "compilers") for path in (ROOT / top).rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files}
    packages = frozenset(name for path, name in names.items() if path.name == "__init__.py")
    assert len(files) > 10
    assert violations({name: path.read_text() for path, name in names.items()}, packages) == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("serving.errors", "import serving.contract", "above"),
        ("serving.runtime.model", "from serving.frontends.http import app", "above"),
        ("serving.runtime.model", "from serving import frontends", "above"),
        ("serving.runtime.model", "from ..frontends import http", "above"),
        ("serving.runtime.model", "def load():\n    from serving.cli.main import main", "above"),
        ("serving.runtime.model", "if TYPE_CHECKING:\n    from serving.control import store", "above"),
        ("containers.onnx.container", "from serving.runtime import batcher", "above"),
        ("serving", "from serving.errors import ServingError", "above"),
        ("serving.runtime.model", "from containers.onnx import container", "entry point"),
        ("serving.runtime.model", "import onnxruntime as ort", "ML framework"),
        ("serving.cli.up", "def run():\n    import torch.nn", "ML framework"),
        ("serving.samples.fraud", "from sklearn.ensemble import RandomForestClassifier", "ML framework"),
        ("containers.onnx.container", "from starlette.requests import Request", "web library"),
        ("serving.runtime.model", "import uvicorn", "web library"),
        ("serving.frontends.http.app", "from uvicorn.protocols.http import httptools_impl", "internal of uvicorn"),
        ("serving.frontends.http.app", "import uvicorn.protocols.utils", "internal of uvicorn"),
        ("serving.frontends.http.app", "from uvicorn import protocols", "internal of uvicorn"),
        ("serving.runtime.model", "from loadtests import bench", "not part"),
        ("serving.attic.thing", "", "on no floor"),
        ("serving.cli.up", "import serving.attic", "on no floor"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, message: str) -> None:
    found = violations({module: source})
    assert len(found) == 1, found
    assert message in found[0]


def test_rooms_of_one_floor_use_each_other_in_one_direction() -> None:
    one = {"serving.payload": "from serving import datatypes"}
    assert violations(one) == []
    assert violations(one | {"serving.datatypes": "import serving.payload"}) == [
        "datatypes and payload import each other"
    ]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("serving.frontends.http.lane", "from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol"),
        ("serving.frontends.http.lane", "from .app import App\nfrom ...runtime import batcher\nfrom . import v2"),
        ("serving.samples.fraud", "def train():\n    from sklearn.ensemble import RandomForestClassifier"),
        ("serving.runtime.model", "import numpy as np\nfrom serving.contract import Container"),
        ("serving.cli.main", "from serving import __version__"),
        ("containers.onnx.container", "import onnxruntime\nfrom serving.errors import ArtifactError"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations({module: source}) == []
