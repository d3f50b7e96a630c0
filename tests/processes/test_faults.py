"""Errors between processes: each class of the tree arrives as itself."""

from __future__ import annotations

import pytest

from serving import errors
from serving.control import capacity
from serving.errors import ArtifactError, InternalError, ServingError
from serving.processes.faults import raised, told

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServingError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_arrives_as_it_was(kind: type[ServingError]) -> None:
    back = raised(*told(kind("what was wrong")))
    assert type(back) is kind
    assert back.message == "what was wrong"
    assert raised(*told(kind())).message == kind().message


def test_a_class_from_elsewhere_arrives_as_the_nearest_one_of_the_tree() -> None:
    """capacity.TooLarge is no 413: only its name is the same."""
    back = raised(*told(capacity.TooLarge("no room")))
    assert type(back) is ArtifactError
    assert back.message == "no room"


def test_what_nobody_foresaw_says_nothing_of_itself() -> None:
    back = raised(*told(KeyError("/secret/path")))
    assert type(back) is InternalError
    assert "secret" not in back.message


def test_a_class_that_nobody_knows_is_an_internal_error() -> None:
    back = raised("Surprise", "what was wrong", 3.0)
    assert type(back) is InternalError
    assert (back.message, back.retry_after_s) == ("what was wrong", 3.0)
    assert type(raised("ClassVar", "x")) is InternalError
