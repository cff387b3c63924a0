"""Errors: the tree is the one that is drawn, each has a code and a status, and all travel."""

import copy
import pickle
import re

import pytest

from sampler_api import errors
from sampler_api.errors import (
    HTTP_STATUS,
    Busy,
    InvalidRequest,
    SamplerError,
    error_class,
    error_from_wire,
)


def tree(base: type[SamplerError]) -> list[type[SamplerError]]:
    """A class and all below it."""
    return [base, *(cls for child in base.__subclasses__() for cls in tree(child))]


ALL = [cls for cls in tree(SamplerError) if cls.__module__ == errors.__name__]
each = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


def drawn() -> dict[str, tuple[str | None, bool]]:
    """Parent and retryability of each class, as the module's docstring draws them."""
    found: dict[str, tuple[str | None, bool]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"( *)\* (\w+)(.*)", line)
        if match:
            depth = len(match[1]) // 2
            del above[depth:]
            found[match[2]] = (above[-1] if above else None, "(retryable)" in match[3])
            above.append(match[2])
    return found


def test_the_tree_is_the_one_that_is_drawn() -> None:
    real = {cls.__name__: (cls.__mro__[1].__name__, cls.retryable) for cls in ALL[1:]}
    assert drawn() == {"SamplerError": (None, False), **real}


def test_every_class_is_exported() -> None:
    assert {cls.__name__ for cls in ALL} <= set(errors.__all__)


def test_each_code_belongs_to_one_class_and_has_one_status() -> None:
    codes = [cls.code for cls in ALL]
    assert sorted(codes) == sorted(set(codes))
    assert set(codes) == set(HTTP_STATUS)
    assert all(400 <= status <= 599 for status in HTTP_STATUS.values())


@each
def test_a_code_leads_back_to_its_class(cls: type[SamplerError]) -> None:
    assert error_class(cls.code) is cls
    made = error_from_wire(cls.code, "why", "top_p")
    assert (type(made), str(made), made.field) == (cls, "why", "top_p")


@each
def test_a_timeout_says_so_in_its_name(cls: type[SamplerError]) -> None:
    assert issubclass(cls, TimeoutError) == ("Timeout" in cls.__name__)


@each
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_errors_travel(cls: type[SamplerError], copied: object) -> None:
    made = cls("what to do", "temperature")
    assert callable(copied)
    again = copied(made)
    assert type(again) is cls
    assert (again.message, again.field, again.args) == (made.message, made.field, made.args)
    assert str(again) == "what to do"


def test_the_error_of_a_call_travels_with_all_errors_and_responses() -> None:
    made = InvalidRequest("no", "top_p")
    made.errors = {1: made, 3: Busy("later")}
    made.responses = ["response"]
    again = pickle.loads(pickle.dumps(made))
    assert again.responses == ["response"]
    assert again.errors[1] is again
    assert type(again.errors[3]) is Busy


def test_the_code_of_a_newer_peer_is_a_sampler_error() -> None:
    assert type(error_from_wire("from_the_future", "hm")) is SamplerError


def test_a_wrong_request_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="no"):
        raise InvalidRequest("no")
