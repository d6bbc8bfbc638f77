"""The running service as the command line sees it: found, trusted, and asked over its REST API.

It is the API that Azure ML's own clients speak, so whatever a command does, a program can do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from finery.errors import FineryError, first_line
from finery.workspace import errors

if TYPE_CHECKING:
    import httpx

PROVIDER = "Microsoft.MachineLearningServices"
API_VERSION = "2024-10-01"
REGISTRY = "azureml"
_KINDS = {
    401: errors.UnauthenticatedError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    501: errors.NotImplementedHereError,
    503: errors.UnavailableError,
}
_AT_WORK = ("creating", "updating", "deleting", "scaling", "inprogress", "running", "accepted")


class RefusedInput(FineryError):
    """The service found faults in what it was given."""

    exit_status = 2


class NothingMoreError(FineryError):
    """A file has no bytes where a request asks for some (416)."""


@dataclass(frozen=True)
class Service:
    """One running service; `http` carries the address, the trust and the token."""

    http: httpx.Client
    group: str  # /subscriptions/…/resourceGroups/…/providers/…
    workspace_name: str

    @property
    def workspace(self) -> str:
        """The workspace's place in Azure's tree, which is also its ARM id."""
        return f"{self.group}/workspaces/{self.workspace_name}"

    def registry(self, name: str) -> str:
        """The place of a registry."""
        return f"/mferp/managementfrontend{self.group}/registries/{name}"

    def ask(
        self,
        method: str,
        *parts: str,
        below: str = "",
        body: Any = None,
        query: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """The answer to one request; `parts` are names below the workspace, or below `below`.

        Raises a FineryError in the service's own words when it refuses.
        """
        path = "/".join([below or self.workspace, *(quote(part, safe="") for part in parts)])
        params = {"api-version": API_VERSION, **(query or {})}
        return self.send(self.http.build_request(method, path, json=body, params=params))

    def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """The answer to a request that is made already."""
        import httpx

        try:
            response = self.http.send(request, stream=stream)
        except httpx.TransportError as error:
            raise errors.UnavailableError(
                f"The service does not answer at {request.url.host}:{request.url.port} "
                f"({first_line(error)}). `finery doctor` looks into it; `finery up` starts it."
            ) from error
        if response.is_error:
            response.read()
            raise refusal(response)
        return response

    def get(self, *parts: str, below: str = "", **query: Any) -> Any:
        """The JSON at a place."""
        return self.ask("GET", *parts, below=below, query=query).json()

    def find(self, *parts: str, below: str = "", **query: Any) -> Any:
        """The JSON at a place, None when nothing is there."""
        try:
            return self.get(*parts, below=below, **query)
        except errors.NotFoundError:
            return None

    def items(self, *parts: str, below: str = "", **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page, as far as the caller reads."""
        page = self.get(*parts, below=below, **query)
        while True:
            yield from page["value"]
            if not page.get("nextLink"):
                return
            page = self.send(self.http.build_request("GET", page["nextLink"])).json()

    def finish(self, response: httpx.Response) -> Any:
        """Wait for what a request started; what a PUT made, None after anything else."""
        makes = response.request.method == "PUT"
        operation = response.headers.get("azure-asyncoperation")
        place = response.headers.get("location")
        resource = str(response.request.url)
        status, fault = "Succeeded", None
        while True:
            if operation:
                state = self._poll(operation, response).json()
                status, fault = str(state["status"]), state.get("error")
            elif response.status_code == 202 and place:
                response = self._poll(place, response)
                if response.status_code == 202:
                    continue
                break
            else:
                body = response.json() if response.content else {}
                status = str(body.get("properties", {}).get("provisioningState", "Succeeded"))
                fault = body.get("properties", {}).get("error")
            if status.lower() not in _AT_WORK:
                break
            if not operation:
                response = self._poll(resource, response)
        if status.lower() != "succeeded":
            text = (fault or {}).get("message") or f"It ended as {status}."
            raise FineryError(text)
        return self.send(self.http.build_request("GET", resource)).json() if makes else None

    def _poll(self, url: str, before: httpx.Response) -> httpx.Response:
        milliseconds = before.headers.get("retry-after-ms", "200")
        time.sleep(int(milliseconds) / 1000 if milliseconds.isdigit() else 0.2)
        return self.send(self.http.build_request("GET", url))


def refusal(response: httpx.Response) -> FineryError:
    """What the service says it refuses, as the error of its kind."""
    try:
        text = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        text = response.text.strip() or response.reason_phrase
    status = response.status_code
    if status == 400:
        return RefusedInput(text)
    if status == 416:
        return NothingMoreError(text)
    if status >= 500 and status not in _KINDS:
        return FineryError(f"The service failed ({status}): {text}")
    return _KINDS.get(status, FineryError)(text)


def connect() -> Service:
    """The service that runs on this FINERY_HOME; raises UnavailableError when none does."""
    import ssl

    import httpx

    from finery.service.certificates import files_in
    from finery.service.running import running_service
    from finery.workspace import identity
    from finery.workspace.place import Workspace
    from finery.workspace.settings import load_settings, service_folder
    from finery.workspace.store import connect as store_of

    folder = service_folder()
    running = running_service(folder)
    if running is None:
        raise errors.UnavailableError("No service runs here. Start it with `finery up`.")
    settings = load_settings(folder)
    workspace = Workspace(folder, settings, store_of("sqlite://"))  # no table is read from here

    def signed(request: httpx.Request) -> httpx.Request:
        # A token a request: a log may be followed for longer than any token holds.
        if "authorization" not in request.headers and str(request.url).startswith(
            f"{running.url}/"
        ):
            request.headers["Authorization"] = f"Bearer {identity.mint(workspace, identity.FINERY)}"
        return request

    http = httpx.Client(
        base_url=running.url,
        auth=signed,
        verify=ssl.create_default_context(cafile=str(files_in(workspace.certificates).authority)),
        timeout=httpx.Timeout(300, connect=5),
        limits=httpx.Limits(max_keepalive_connections=0),  # nothing stays open to be closed
        trust_env=False,  # a proxy of the environment cannot reach this machine's loopback
    )
    group = (
        f"/subscriptions/{settings.subscription_id}/resourceGroups/{settings.resource_group}"
        f"/providers/{PROVIDER}"
    )
    return Service(http, group, settings.workspace_name)
