"""What a model's batches cost: run time learned per batch size, from warm-up and from service."""

from __future__ import annotations

_BUCKETS = 32
_CLIP = 4.0
_WEIGHT = 0.125


class Costs:
    """Run time in seconds by rows, learned as one moving average for each power of two.

    A sample counts for at most four times the average, so that one descheduled run does not mislead.
    """

    __slots__ = ("_best", "_known", "_rows", "_seconds", "row_s")

    def __init__(self) -> None:
        self._rows = [0.0] * _BUCKETS
        self._seconds = [0.0] * _BUCKETS
        self._known: list[int] = []
        self._best = 0
        self.row_s = 0.0
        """Seconds for one row at the best batch size seen; 0 before the first sample."""

    def learn(self, rows: int, seconds: float, *, believed: bool = False) -> None:
        """Takes one measured run of `rows` rows; one that is `believed` and quicker than is known is all that is then known."""
        bucket = min((rows - 1).bit_length(), _BUCKETS - 1)
        known = self._seconds[bucket]
        if known == 0.0:
            self._seconds[bucket] = seconds
            self._rows[bucket] = rows
            self._known.append(bucket)
        else:
            weight = 1.0 if believed and seconds < known else _WEIGHT
            seconds = min(seconds, known * _CLIP)
            self._seconds[bucket] = known + (seconds - known) * weight
            self._rows[bucket] += (rows - self._rows[bucket]) * weight
        per_row = self._seconds[bucket] / self._rows[bucket]
        if self.row_s == 0.0 or per_row < self.row_s:
            self.row_s = per_row
            self._best = bucket
        elif bucket == self._best:
            self.row_s, self._best = min((self._seconds[i] / self._rows[i], i) for i in self._known)

    def predict(self, rows: int) -> float:
        """Seconds that a run of `rows` rows will take; 0 when nothing is known yet."""
        bucket = min((rows - 1).bit_length(), _BUCKETS - 1)
        seconds = self._seconds[bucket]
        if seconds:
            return seconds
        for lower in range(bucket - 1, -1, -1):
            if self._seconds[lower]:
                return self._seconds[lower] * rows / self._rows[lower]
        for higher in range(bucket + 1, _BUCKETS):
            if self._seconds[higher]:
                return self._seconds[higher]
        return 0.0
