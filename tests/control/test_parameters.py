"""Every field of every built operation at its limits and one step beyond, generated from AWS's service models."""

from __future__ import annotations

from functools import cache

import pytest

from serving.control.operations import OPERATIONS
from serving.control.service import Catalogue, Service
from serving.errors import ControlFault
from tests.control.inputs import Case, Inputs

BUILT = sorted({*OPERATIONS, "logs.DescribeLogStreams", "logs.GetLogEvents"})


@cache
def service(name: str) -> Service:
    return Catalogue(BUILT).service(name)


def wrong(key: str, case: Case) -> str:
    """What is wrong with the answer to a case, or ""."""
    name, _, operation = key.partition(".")
    try:
        service(name).read(operation, case.value, 60.0)
    except ControlFault as fault:
        code, message = fault.sagemaker_code, fault.message
    else:
        code, message = "", ""
    if code != case.error or any(text not in message for text in case.texts):
        return f"{case.what}: {case.error} {case.texts} was expected of {case.value!r:.200}, not {code}: {message:.500}"
    return ""


@pytest.mark.parametrize("key", BUILT)
def test_each_field_has_the_limits_of_the_model(key: str) -> None:
    name, _, operation = key.partition(".")
    found = [wrong(key, case) for case in Inputs(service(name)).cases(operation)]
    assert [line for line in found if line] == []
    assert found or not service(name).operations[operation].input


@pytest.mark.parametrize("key", BUILT)
def test_the_smallest_and_the_largest_input_are_accepted_whole(key: str) -> None:
    name, _, operation = key.partition(".")
    inputs = Inputs(service(name))
    for document in (inputs.least(operation), inputs.most(operation)):
        assert service(name).read(operation, document) == document


def test_the_cases_are_many_and_of_every_kind() -> None:
    cases = [case for key in BUILT for case in Inputs(service(key.partition(".")[0])).cases(key.partition(".")[2])]
    assert len(cases) > 5_000
    kinds = {case.what.rpartition(" ")[2] for case in cases}
    assert kinds >= {"long", "short", "pattern", "enum", "missing", "unknown", "null", "many", "few", "large", "small"}
