"""The command line's tests talk to a service that answers what they say."""

from __future__ import annotations

import pytest
from scripted_service import Script, service_on

from finery.cli import (
    chat,
    client,
    compute,
    deploy,
    endpoint,
    endpoint_ask,
    endpoint_canary,
    job,
    model,
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """The answers of the service that the commands of this test talk to."""
    made = Script()
    service = service_on(made)
    modules = (client, compute, job, model, chat, deploy, endpoint, endpoint_ask, endpoint_canary)
    for module in modules:
        monkeypatch.setattr(module, "connect", lambda: service)
    return made
