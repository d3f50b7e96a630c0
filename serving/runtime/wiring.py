"""Wiring: which artifact of which kind is served under which name; what the supervisor tells its workers to serve."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

import msgspec

from serving.contract import ModelConfig


class TargetsWiring(msgspec.Struct, frozen=True):
    """The models of a multi-model endpoint: whatever lies below a prefix, each loaded when it is asked for.

    `prefix` is a URL that ends in a slash; "" where models are named by `POST /models` alone. `keep`: a model stays loaded
    until memory is wanted (SageMaker's ModelCacheSetting Enabled); else it goes after each use. `pinned` targets are
    loaded at once and never evicted, `prewarmed` ones are loaded at once.
    """

    prefix: str
    keep: bool = True
    pinned: tuple[str, ...] = ()
    prewarmed: tuple[str, ...] = ()


class EndpointWiring(msgspec.Struct, frozen=True):
    """One version of an endpoint of a snapshot: its variant, and the artifact that a container kind will load.

    With `targets` it is a multi-model endpoint: `artifact` is "", `container` the kind of all its models ("": whatever
    reads Triton's layout), and `config` what all of them have in common.
    """

    name: str
    variant: str
    container: str
    artifact: str
    config: ModelConfig
    targets: TargetsWiring | None = None


class Located(msgspec.Struct, frozen=True):
    """The artifact of a target, on this machine's disk.

    `wiring` is the target's own, to be loaded as it stands: its endpoint's name and variant, and a config whose name is
    `ENDPOINT:TARGET`. `revision` names its content (the object's ETag). `bytes` are those on disk. `downloading_s`: how long it
    took to get it there, 0 where it was there.
    """

    wiring: EndpointWiring
    revision: str
    bytes: int
    downloading_s: float = 0.0


Versions = tuple[EndpointWiring, ...]
"""The versions of one endpoint, newest first."""


ENDED: Final = "the worker process that loaded it ended; the log has how"
"""Why a model could not be loaded, where another try would most likely end a worker again."""


class Fleet(Protocol):
    """The workers, as the control plane sees them: endpoints by name, each changed whole."""

    def names(self) -> Collection[str]:
        """The names that are served from the command line; no endpoint can have them."""

    async def deploy(self, endpoints: Mapping[str, Versions]) -> dict[str, str]:
        """Loads these in every worker, beside what serves under their names, and puts in force those that could be.

        For each name why it could not, or "". What served under a name before goes on where the new cannot.
        """

    def on_lost(self, lost: Callable[[str, str], None]) -> None:
        """Whom to tell of an endpoint that was in force and had to be taken out, and why: a new worker could not load it."""

    async def withdraw(self, names: Collection[str]) -> None:
        """Takes these endpoints out of force in every worker; what is in flight is answered."""
