"""The known attacks, for a moment each: the server lives, its memory is bounded, and others are served.

`python -m tests.frontends.http2.report` runs them for longer, and tells what each did.
"""

from __future__ import annotations

import pytest

from tests.frontends.http2.attacks import ATTACKS, Attack
from tests.frontends.http2.harm import inflict
from tests.frontends.http2.known import LOGGED, OVERRUN
from tests.frontends.http2.targets import Target

SECONDS = 0.3


def name(attack: Attack) -> str:
    """How an attack is called."""
    return attack.name


@pytest.mark.parametrize("attack", ATTACKS, ids=name)
def test_the_server_withstands(target: Target, attack: Attack) -> None:
    harm = inflict(attack, target, SECONDS)
    assert harm.alive
    assert harm.serves
    faults = harm.faults(attack)
    known = OVERRUN[target.transport].get(attack.name)
    if faults and known is not None and any(known in each for each in faults):
        pytest.xfail(f"{target.transport}: {known}")
    assert not faults


def test_an_attack_is_no_error_of_the_servers(target: Target) -> None:
    """Runs last of a server's."""
    known = LOGGED.get(target.transport)
    records = target.server.unexpected()
    assert [record for record in records if known is None or known not in record] == []
    if records:
        pytest.xfail(f"{target.transport}: {known}")
