"""Submitting jobs through the SDK and waiting for them."""

from __future__ import annotations

import time
import uuid
from typing import Any

ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"
ENDS = ("Completed", "Failed", "Canceled")
PATIENCE = 120.0


def new_name(word: str) -> str:
    """A job name that no other test has."""
    return f"{word}-{uuid.uuid4().hex[:10]}"


def command_job(text: str, **more: Any) -> Any:
    """A command job with a name of its own, not submitted."""
    from azure.ai.ml import command

    return command(command=text, environment=ENVIRONMENT, name=new_name("command"), **more)


def submitted(client: Any, text: str, **more: Any) -> Any:
    """A command job, submitted."""
    return client.jobs.create_or_update(command_job(text, **more))


def status_of(client: Any, name: str) -> str:
    """Where a job stands."""
    return client.jobs.get(name).status


def wait_for(client: Any, name: str, *statuses: str) -> str:
    """Wait until a job is in one of `statuses` (or has ended); the status."""
    until = time.monotonic() + PATIENCE
    while (status := status_of(client, name)) not in (*statuses, *ENDS):
        assert time.monotonic() < until, f"{name} is still {status}"
        time.sleep(0.1)
    return status
