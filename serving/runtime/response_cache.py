"""Outputs that were computed before, by the input that they answer: least recently used first out, bounded by bytes.

An input is told by the number of its rows, the shapes that vary and a 256-bit BLAKE2b hash of its bytes, within one
loaded model. All but the hash is compared as it is, so one input's answer can reach another only by a collision of that
hash, and to find one takes 2^128 attempts, also for a caller who may choose every input. Keeping the inputs themselves
would double what an entry of a large input takes, and compare no better in practice.
"""

from __future__ import annotations

import struct
import sys
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Final, TypeAlias

import numpy as np

from serving.codecs.base import Column
from serving.contract import Array

Key: TypeAlias = tuple[int, Hashable, bytes]

ENTRY_BYTES: Final = 480
"""What an entry takes beside its arrays: its key, its places in the dictionary, its own object."""

MOST_EVICTED: Final = 256
"""Entries that may go for a new one, so that a large answer does not hold the loop up; what still has no room is not kept."""


class Counts:
    """What happened to the answers of one model, over all its loads."""

    __slots__ = ("evictions", "hits", "misses", "too_large")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.too_large = 0


class _Entry:
    """Outputs, their bytes, and when they were last asked for (a count, not a time)."""

    __slots__ = ("outputs", "size", "used")

    def __init__(self, outputs: tuple[Array, ...], size: int, used: int) -> None:
        self.outputs = outputs
        self.size = size
        self.used = used


class ResponseCache:
    """All that one worker keeps: at most `budget_bytes`, shared by the models that ask for it."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.bytes = 0
        self._uses = 0
        self._partitions: set[Partition] = set()
        self._counts: dict[tuple[str, str], Counts] = {}

    def partition(self, model: str, version: str) -> Partition:
        """A new and empty part for one loaded model; it counts on where the last one of that name and version stopped."""
        partition = Partition(self, self._counts.setdefault((model, version), Counts()))
        self._partitions.add(partition)
        return partition

    def used(self) -> int:
        """The next moment of use."""
        self._uses += 1
        return self._uses

    def make_room(self, size: int) -> bool:
        """Whether there is room for `size` more bytes, once entries that were used longest ago have gone."""
        for _ in range(MOST_EVICTED):
            if self.bytes + size <= self.budget_bytes:
                return True
            min((part for part in self._partitions if len(part)), key=Partition.oldest).evict()
        return self.bytes + size <= self.budget_bytes

    def forget(self, partition: Partition) -> None:
        """Takes a partition, and its bytes, out of the sum."""
        self._partitions.discard(partition)
        self.bytes -= partition.bytes


class Partition:
    """The answers of one loaded model; `bytes` is what they take."""

    def __init__(self, cache: ResponseCache, counts: Counts) -> None:
        self.counts = counts
        self.bytes = 0
        self._cache = cache
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> tuple[Array, ...] | None:
        """The outputs of that input, read-only; None where they are not there."""
        entry = self._entries.get(key)
        if entry is None:
            self.counts.misses += 1
            return None
        self.counts.hits += 1
        self._entries.move_to_end(key)
        entry.used = self._cache.used()
        return entry.outputs

    def put(self, key: Key, outputs: Sequence[Array]) -> None:
        """Keeps a compact copy of the outputs, if there can be room for it. Outputs of the same key stay as they are."""
        if self._closed or key in self._entries:
            return
        size = size_of(key, outputs)
        if size > self._cache.budget_bytes or not self._cache.make_room(size):
            self.counts.too_large += 1
            return
        self._entries[key] = _Entry(compact(outputs), size, self._cache.used())
        self.bytes += size
        self._cache.bytes += size

    def oldest(self) -> int:
        """When the entry was used that was used longest ago; there must be one."""
        return next(iter(self._entries.values())).used

    def evict(self) -> None:
        """Lets that entry go."""
        _, entry = self._entries.popitem(last=False)
        self.bytes -= entry.size
        self._cache.bytes -= entry.size
        self.counts.evictions += 1

    def close(self) -> None:
        """Lets everything go, for good."""
        if not self._closed:
            self._closed = True
            self._cache.forget(self)
            self._entries.clear()
            self.bytes = 0


def key_of(rows: int, signature: Hashable, columns: Sequence[Column]) -> Key:
    """What tells an input from every other of its model.

    Rows, signature and the model fix how many bytes, or how many elements of BYTES, each column has, so the columns
    need no marks between them; the elements of BYTES do, and have their lengths before them.
    """
    if len(columns) == 1 and not isinstance(columns[0], list):
        return rows, signature, blake2b(columns[0], digest_size=32).digest()
    digest = blake2b(digest_size=32)
    for column in columns:
        if isinstance(column, list):
            digest.update(struct.pack(f"<{len(column)}Q", *map(len, column)))
            digest.update(b"".join(column))
        else:
            digest.update(column)
    return rows, signature, digest.digest()


def compact(outputs: Sequence[Array]) -> tuple[Array, ...]:
    """Read-only copies that hold their own rows alone; outputs that are such copies already, as they are."""
    return tuple(_own(outputs[position]) for position in range(len(outputs)))


def size_of(key: Key, outputs: Sequence[Array]) -> int:
    """Bytes that an entry takes, with what it needs beside the values."""
    size = ENTRY_BYTES + _nested(key[1])
    for output in outputs:
        size += 128 + output.nbytes
        if output.dtype == object:
            size += sum(map(sys.getsizeof, output.reshape(-1).tolist()))
    return size


def _own(array: Array) -> Array:
    if array.base is None and not array.flags.writeable:
        return array
    copied = np.array(array, order="C")
    copied.flags.writeable = False
    return copied


def _nested(value: Hashable) -> int:
    if isinstance(value, tuple):
        return sys.getsizeof(value) + 16 + sum(map(_nested, value))
    return 0 if value is None else sys.getsizeof(value)
