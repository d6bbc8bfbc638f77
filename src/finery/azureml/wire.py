"""Reading bodies and writing values as Azure ML's REST does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from finery.errors import Fault, InputError
from finery.workspace.assets import Archived

T = TypeVar("T")
LARGEST = 2**31 - 1  # a list of the store has no more places
VIEWS: dict[str, Archived] = {
    "activeonly": "active",
    "archivedonly": "archived",
    "all": "all",
}


def moment(when: datetime) -> str:
    """A time of the store as it stands on the wire."""
    return when.isoformat() + "Z"


def whole_number(given: str, where: str, least: int = 0) -> int:
    """A whole number in an address; raises InputError for what is none."""
    digits = given.isascii() and given.isdigit() and len(given) < 20
    if not digits or not least <= int(given) <= LARGEST:
        raise InputError([Fault(where, repr(given), f"a whole number from {least}")])
    return int(given)


def list_view(given: str) -> Archived:
    """What of a list is asked for; raises InputError for a word that means nothing.

    The SDK sends the value of its enumeration, or, in one release, the enumeration's name.
    """
    word = given.rpartition(".")[2].replace("_", "").lower()
    if word not in VIEWS:
        raise InputError([Fault("listViewType", repr(given), "ActiveOnly, ArchivedOnly or All")])
    return VIEWS[word]


def mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping at `key`; empty when it is absent or null."""
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError([Fault(key, repr(value), "a mapping")])
    return value


def text(body: Mapping[str, Any], key: str) -> str:
    """The text at `key`; "" when it is absent or null."""
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:  # PostgreSQL stores no NUL
        raise InputError([Fault(key, repr(value), "text")])
    return value


def said_text(body: Mapping[str, Any], key: str) -> str | None:
    """The text at `key`; None when nothing is said there."""
    return None if body.get(key) is None else text(body, key)


def or_fault(faults: list[Fault], read: Callable[[], T], otherwise: T) -> T:
    """What `read` gives; where it is refused, the faults go to the others."""
    try:
        return read()
    except InputError as error:
        faults += error.faults
        return otherwise


def texts(body: Mapping[str, Any], key: str) -> dict[str, str]:
    """The mapping of names to text at `key`; numbers and flags become text, as in Azure."""
    found = {}
    for name, value in mapping(body, key).items():
        if value is None:
            continue
        if isinstance(value, Mapping | list):
            raise InputError([Fault(f"{key}.{name}", repr(value), "text")])
        found[name] = text({name: str(value)}, name)
    return found
