"""The models of an endpoint as OpenAI lists them: the endpoint itself, and its deployments.

https://platform.openai.com/docs/api-reference/models
"""

from __future__ import annotations

import json
from datetime import UTC

from finery.endpoints.gateway.refusals import ModelNotFoundError
from finery.endpoints.routing import Table


def model_list(table: Table, model: str = "") -> bytes:
    """All of them, or the one that is named; raises ModelNotFoundError."""
    made = {table.endpoint.name: table.endpoint.created_at}
    made |= {name: found.created_at for name, found in table.deployments.items()}
    rows = {
        name: {
            "id": name,
            "object": "model",
            "created": int(at.replace(tzinfo=UTC).timestamp()),
            "owned_by": "finery",
        }
        for name, at in made.items()
    }
    if not model:
        return json.dumps({"object": "list", "data": list(rows.values())}).encode()
    if model not in rows:
        where = f"the endpoint {table.endpoint.name}"
        raise ModelNotFoundError(f"No model is called {model!r} at {where}.")
    return json.dumps(rows[model]).encode()
