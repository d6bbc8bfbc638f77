"""Reading bodies and writing values as Azure ML's REST does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finery.errors import Fault, InputError


def moment(when: datetime) -> str:
    """A time of the store as it stands on the wire."""
    return when.isoformat() + "Z"


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
