"""The variables that point azure-identity, azure-ai-ml and MLflow at this service."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from urllib.parse import urlsplit

from finery.service.certificates import files_in
from finery.service.running import Running
from finery.workspace.identity import key_of, login_link
from finery.workspace.place import Workspace
from finery.workspace.settings import CLOUD, OWNER, load_settings
from finery.workspace.store import connect

# Names of what `variables` gives, but for proxies, which are the shell's own.
NAMES = (
    *("ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD", "REGISTRY_DISCOVERY_ENDPOINT_URL"),
    *("AZURE_TOKEN_CREDENTIALS", "MSI_ENDPOINT", "MSI_SECRET", "REQUESTS_CA_BUNDLE"),
    *("AZUREML_RUN_POLLING_INTERVAL_MIN", "AZUREML_RUN_POLLING_INTERVAL_MAX"),
    *("FINERY_URL", "FINERY_HTTP_URL"),
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def variables(folder: Path, running: Running, user: str = OWNER) -> dict[str, str]:
    """Name and value of each, for the service in `folder`."""
    base = running.url
    found = {
        "ARM_CLOUD_METADATA_URL": f"{base}/metadata/endpoints?api-version=2019-05-01",
        "AZUREML_CURRENT_CLOUD": CLOUD,
        "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{base}/",
        # azure-identity: Azure ML's managed identity, whatever other credentials are set
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        "MSI_ENDPOINT": f"{base}/msi/token",
        "MSI_SECRET": key_of(folder / "secrets", user),
        "REQUESTS_CA_BUNDLE": str(files_in(folder / "certificates").bundle),
        # Without them the SDK's log streaming slows down to one look a minute.
        "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
        "AZUREML_RUN_POLLING_INTERVAL_MAX": "3",
        "FINERY_URL": base,
        "FINERY_HTTP_URL": running.http_url,
    }
    if any(os.environ.get(name) for name in PROXIES):
        direct = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
        ours = {"localhost", "127.0.0.1", urlsplit(base).hostname or "localhost"}
        found["NO_PROXY"] = ",".join([*filter(None, [direct]), *sorted(ours)])
        found["no_proxy"] = found["NO_PROXY"]
    return found


def forget_services(environment: MutableMapping[str, str]) -> None:
    """Take out the variables of `finery env`, if they are there.

    A service that starts in such a shell is no client of the one before: its MLflow and its
    steps would ask that one, which may be gone, and they need nobody's key.
    """
    if "FINERY_URL" in environment:
        for name in NAMES:
            environment.pop(name, None)


def exports(values: Mapping[str, str]) -> str:
    """The variables as lines for `eval "$(finery env)"`."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def page_link(folder: Path, running: Running, page: str) -> str:
    """The address that opens a page of the service in a browser."""
    settings = load_settings(folder, {"port": running.port, "http_port": running.http_port})
    return login_link(Workspace(folder, settings, connect("sqlite://")), page)
