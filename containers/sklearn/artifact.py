"""Files to fitted estimators: skops files after all types in them were checked, pickles only where they are allowed."""

from __future__ import annotations

import importlib
import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any, Final

from containers.sklearn import nodes
from serving.contract import Trust
from serving.errors import ArtifactError, MissingExtra

log = logging.getLogger("serving.sklearn")

SKOPS: Final = ".skops"
PICKLES: Final = (".joblib", ".pkl", ".pickle")

HARMLESS: Final = (
    "numpy.dtype",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
)
"""Types in scikit-learn's own estimators that only hold values, and of which skops leaves the trust to its caller."""

MOST_INFLATED: Final = 256 * 1024 * 1024
MOST_RATIO: Final = 200
"""A skops file may unpack to `MOST_INFLATED` bytes, or to more where that is at most `MOST_RATIO` times its size."""

_MOST = 400


def read(artifact: Path, trust: Trust) -> Any:
    """The object in the file. Raises `ArtifactError` and `MissingExtra`."""
    sklearn = _module("sklearn")
    version = sklearn.__version__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = _skops(artifact, trust) if artifact.suffix == SKOPS else _pickle(artifact, trust)
        except (ArtifactError, MissingExtra):
            raise
        except ModuleNotFoundError as error:
            raise ArtifactError(f"{artifact} needs the module {error.name}, which is not installed here") from error
        except RecursionError as error:
            raise ArtifactError(f"{artifact} is nested too deeply to be a model") from error
        except Exception as error:  # whatever a broken file makes the library raise
            raise ArtifactError(
                f"{artifact} cannot be loaded by scikit-learn {version}{_fitted_with(caught)}: {plain(error)}"
            ) from error
    if fitted_with := _fitted_with(caught):
        log.warning(
            "%s is served by scikit-learn %s%s; what changed between them may change its answers",
            artifact,
            version,
            fitted_with,
        )
    return found


def plain(error: BaseException) -> str:
    """What a library says, on one line."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _MOST else f"{text[:_MOST]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"scikit-learn models need {name}, which cannot be imported ({error}): pip install 'serving[sklearn]'"
        ) from error


def _fitted_with(caught: list[warnings.WarningMessage]) -> str:
    """` (the file was written by ...)` where scikit-learn warned of another version."""
    versions = {str(getattr(one.message, "original_sklearn_version", "")) for one in caught} - {""}
    return f" (the file was written by {', '.join(sorted(versions))})" if versions else ""


def _skops(artifact: Path, trust: Trust) -> Any:
    if not zipfile.is_zipfile(artifact):
        raise ArtifactError(
            f"{artifact} is not a skops file, which is a zip archive{_hint(artifact)}; write it with skops.io.dump"
        )
    _refuse_bomb(artifact)
    skops = _module("skops.io")
    ours = {*HARMLESS, *nodes.TYPES}
    untrusted = [name for name in skops.get_untrusted_types(file=artifact) if name not in ours]
    if unknown := [name for name in untrusted if name not in trust.types]:
        raise ArtifactError(
            f"{artifact} holds types that are not trusted: {', '.join(unknown)}; loading them may run code or corrupt "
            "memory. If you know where the file comes from, trust them by name with "
            + " ".join(f"--trusted-type {name}" for name in unknown)
        )
    nodes.check_file(artifact)
    # skops holds what it builds against the same list once more.
    found = skops.load(artifact, trusted=[*ours, *trust.types])
    nodes.check(found, artifact)
    return found


def _refuse_bomb(artifact: Path) -> None:
    with zipfile.ZipFile(artifact) as archive:
        inflated = sum(entry.file_size for entry in archive.infolist())
    size = artifact.stat().st_size
    if inflated > MOST_INFLATED and inflated > MOST_RATIO * size:
        raise ArtifactError(f"{artifact} of {size} bytes unpacks to {inflated}, which no model does")


def _hint(artifact: Path) -> str:
    with artifact.open("rb") as stream:
        start = stream.read(2)
    return ", but looks like a pickle" if start[:1] == b"\x80" and start[1:] <= b"\x05" else ""


def _pickle(artifact: Path, trust: Trust) -> Any:
    if not trust.allow_pickle:
        raise ArtifactError(
            f"{artifact} is a pickle, and loading one runs whatever code its author put in; save the model with "
            "skops.io.dump as a .skops file, or, if you trust its author as you trust this server, start with "
            "--allow-pickle"
        )
    log.warning("%s is a pickle: loading it runs its code, which --allow-pickle allows", artifact)
    return _module("joblib").load(artifact)
