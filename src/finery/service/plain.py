"""What plain HTTP on loopback opens: pages, and MLflow for steps. (Endpoints have a gateway.)

Another user of the machine can take the port while the service is down, and without TLS nobody
would notice. So whatever takes the tokens of people is answered over HTTPS alone.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from finery.azureml import peer
from finery.azureml.errors import error_response

OPEN = ("/mlflow", "/studio", "/login", "/healthz")


class PlainDoors:
    """The application as the plain port shows it."""

    def __init__(self, app: ASGIApp, base_url: str) -> None:
        self.app, self.base_url = app, base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is open here; refuse the rest, and who comes by another name."""
        if scope["type"] == "http" and (why := self._refusal(Request(scope))):
            await error_response(403, "Forbidden", why)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, request: Request) -> str:
        if request.url.hostname not in peer.NAMES:
            return f"Plain HTTP is for this machine: ask for localhost, or for {self.base_url}."
        if request.url.path.startswith("/endpoints/"):
            return "Endpoints have an address of their own: `finery endpoint show NAME` tells it."
        if not request.url.path.startswith(OPEN):
            return f"This is answered over HTTPS alone, at {self.base_url}."
        return ""
