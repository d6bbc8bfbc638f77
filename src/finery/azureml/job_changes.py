"""Whether two bodies ask for the same job: what may change is left out, and so is null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What a client may change of a job that is there, and what only the service says of it.
MUTABLE = frozenset(
    {
        *("description", "displayName", "tags", "properties", "isArchived"),
        *("status", "services", "parentJobName", "notificationSetting", "secretsConfiguration"),
    }
)

FILLED_IN = "azureml://subscriptions/"  # what `job_views.output_uri` begins with


def same_request(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` asks for what `old` asked for, whoever wrote it down."""
    default = {} if old.get("experimentName") else {"experimentName": new.get("experimentName")}
    return _kept({**old, **default}) == _kept(new)


def _kept(body: Mapping[str, Any]) -> dict[str, Any]:
    kept = _plain({key: value for key, value in body.items() if key not in MUTABLE})
    outputs = body.get("outputs")
    said = outputs if isinstance(outputs, Mapping) else {}
    return {**kept, "outputs": {name: _output(_plain(one)) for name, one in said.items()}}


def _output(said: Any) -> Any:
    """An output without the place that the service filled in, which a client may send back."""
    if not isinstance(said or {}, Mapping):
        return said
    said = said or {}
    ours = str(said.get("uri") or "").startswith(FILLED_IN)
    left_out = {"uri"} if ours else set()
    return {"jobOutputType": "uri_folder", **{k: v for k, v in said.items() if k not in left_out}}


def _plain(value: Any) -> Any:
    """A JSON value without what is null or empty, which some clients send and others do not."""
    if isinstance(value, Mapping):
        plain = {key: _plain(inner) for key, inner in value.items()}
        return {key: inner for key, inner in plain.items() if inner not in (None, {}, [])}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value
