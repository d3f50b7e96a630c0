"""Which loaded model goes first when another one needs its memory: the policies, by the names that settings know them by."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from serving.runtime.eviction.gdsf import Gdsf
from serving.runtime.eviction.lru import Lru

K = TypeVar("K", bound=Hashable)


class EvictionPolicy(Protocol[K]):
    """The order in which models leave memory, told what is in and how it is used.

    It decides on nothing but the order: whoever owns the models asks for `victims` and passes over those that cannot go.
    What is asked for has to be loaded, so that no policy refuses a newcomer; it can only let it go first again. Nothing
    here depends on a clock or on chance: the same calls give the same order. What a policy remembers of keys that are no
    longer in is bounded.
    """

    def added(self, key: K, bytes_: int, seconds: float, now: float) -> None:
        """A model was loaded: what it takes, and how long loading took.

        The load counts as a use, in the place of the first one that `used` tells, so that a model that was loaded ahead is
        not the first to go. A key that is in already is taken for a new load of it, which keeps what is known of its use.
        """

    def used(self, key: K, times: int, now: float) -> None:
        """It answered that many requests, the one that it was loaded for among them; told once for each burst.

        A key that is not in is passed over.
        """

    def resized(self, key: K, bytes_: int) -> None:
        """It takes more or less memory than was thought. A key that is not in is passed over."""

    def removed(self, key: K, *, evicted: bool) -> None:
        """It is no longer in. `evicted`: it may come back, so its use is remembered; else whatever is known of it goes."""

    def victims(self) -> Iterator[K]:
        """Every key that is in, once, the first to go first; nothing may be told to the policy while it is iterated."""


POLICIES: Final[Mapping[str, type[EvictionPolicy[Any]]]] = MappingProxyType({"gdsf": Gdsf, "lru": Lru})
"""What `model_eviction` may name."""


def policy(name: str) -> EvictionPolicy[Any]:
    """A new and empty policy of that name. Raises ValueError for a name that is not in `POLICIES`."""
    try:
        return POLICIES[name]()
    except KeyError:
        raise ValueError(f"no eviction policy is named '{name}'; there are: {', '.join(POLICIES)}") from None
