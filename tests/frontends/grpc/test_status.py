"""What an error is to a caller over gRPC."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from serving.errors import Overloaded
from serving.frontends.grpc.status import MOST_BYTES, Status, pushback_ms


@pytest.mark.parametrize(("retry_after_s", "ms"), [(None, None), (0.0, 1), (0.0002, 1), (0.25, 250), (1.0, 1000)])
def test_nobody_is_told_to_try_again_at_once(retry_after_s: float | None, ms: int | None) -> None:
    assert pushback_ms(Overloaded("busy", retry_after_s=retry_after_s)) == ms


@pytest.mark.parametrize("before", range(4))
def test_a_long_message_is_cut_between_characters_of_its_encoding(before: int) -> None:
    encoded = Status(3, "x" * before + "\u00e9" * MOST_BYTES).encoded.decode()
    assert MOST_BYTES - 3 < len(encoded) <= MOST_BYTES
    assert unquote(encoded, errors="replace").rstrip("\ufffd") == "x" * before + "\u00e9" * (
        (len(encoded) - before) // 6
    )
