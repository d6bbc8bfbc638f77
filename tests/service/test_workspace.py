"""The workspace as the SDK sees it, and the credential that leads there."""

from __future__ import annotations

from typing import Any

from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
from service_process import Service


def test_a_workspace_answers_under_the_name_its_user_has_in_mind(client: MLClient) -> None:
    found = client.workspaces.get("anything")
    assert found is not None
    assert found.name == "anything"
    assert found.location == "local"


def test_the_one_workspace_is_listed(client: MLClient) -> None:
    assert [found.name for found in client.workspaces.list()] == ["finery"]


def test_the_default_credential_gets_a_token(service: Service) -> None:
    token = DefaultAzureCredential().get_token("https://management.azure.com/.default")
    assert token.token.count(".") == 2


def test_a_registry_client_finds_its_registry(registry: Any) -> None:
    assert registry.registry_name == "azureml" if hasattr(registry, "registry_name") else True
