"""Proof that an operation of the SDK was called in a test, and came back."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import pytest
from azure.ai.ml import MLClient

PROVED: set[str] = set()  # what tests of this session say they prove


def operation_groups() -> dict[str, type]:
    """The attributes of MLClient that hold operations, with their classes."""
    found = {}
    for name, member in inspect.getmembers(MLClient, lambda one: isinstance(one, property)):
        kind = typing.get_type_hints(member.fget).get("return")
        if inspect.isclass(kind) and kind is not str:
            found[name] = kind
    return found


def operations_of(kind: type) -> set[str]:
    """The public methods of a class of operations."""
    members = inspect.getmembers(kind, inspect.isfunction)
    return {name for name, _ in members if not name.startswith("_")}


def proves(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a test that calls these operations; it fails when one of them did not come back."""
    PROVED.update(names)

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def checked(*arguments: Any, **keywords: Any) -> None:
            with pytest.MonkeyPatch.context() as patch:
                returned = record(patch)
                test(*arguments, **keywords)
            assert set(names) <= returned, f"not called: {set(names) - returned}"

        return checked

    return mark


def record(patch: pytest.MonkeyPatch) -> set[str]:
    """The operations that come back from now on."""
    returned: set[str] = set()
    for group, kind in operation_groups().items():
        for method in operations_of(kind):
            whole = getattr(kind, method)

            def call(*arguments: Any, _whole: Any = whole, _name: str = "", **more: Any) -> Any:
                answer = _whole(*arguments, **more)
                returned.add(_name)
                return answer

            named = functools.partialmethod(call, _name=f"{group}.{method}")
            patch.setattr(kind, method, named)
    return returned
