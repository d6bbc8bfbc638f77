"""Questions to endpoints that the service asks in a browser's place.

A page may speak to its own origin alone, and holds no key. So the service asks the gateway on
loopback, with the endpoint's key, and passes on what it hears as it hears it.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from finery.endpoints import keys, service
from finery.endpoints.gateway import control
from finery.endpoints.rules import LONGEST_TIMEOUT
from finery.endpoints.values import Endpoint
from finery.workspace import identity
from finery.workspace.errors import ConflictError, UnavailableError
from finery.workspace.place import Workspace

DEPLOYMENT = "azureml-model-deployment"  # the header that names one, and says which one answered
PATIENCE = httpx.Timeout(5.0, read=LONGEST_TIMEOUT)  # the gateway ends what takes too long
LARGEST = 4 * 2**20  # bytes of one event or refusal
AWAY = "The gateway does not answer. It is started again by itself: try again in a moment."
BROKEN = "The answer broke off."


@dataclass(frozen=True)
class Voice:
    """An endpoint, or one deployment of it, and how it is asked."""

    endpoint: str
    deployment: str  # "" is whichever the traffic goes to
    address: str
    key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a question."""
        named = {DEPLOYMENT: self.deployment} if self.deployment else {}
        return {"authorization": f"Bearer {self.key}", **named}


def voice(workspace: Workspace, name: str, deployment: str = "") -> Voice:
    """How an endpoint is asked; raises NotFoundError, or UnavailableError without a gateway."""
    endpoint = service.get(workspace, name)
    if deployment:
        service.deployment(workspace, name, deployment)
    at = control.addresses(workspace)
    if at is None:
        raise UnavailableError(AWAY)
    address = f"{at.http_url}/endpoints/{name}/v1/chat/completions"
    return Voice(name, deployment, address, _key(workspace, endpoint))


def _key(workspace: Workspace, endpoint: Endpoint) -> str:
    if endpoint.auth_mode == "key":
        return endpoint.primary_key
    if endpoint.auth_mode == "aml_token":
        return keys.token(workspace, endpoint)
    return identity.mint(workspace, identity.PUBLIC_MACHINE_LEARNING)


@contextlib.asynccontextmanager
async def asked(voice: Voice, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
    """The gateway's answer, its head read; raises UnavailableError when there is none."""
    async with new_client() as client:
        request = client.build_request("POST", voice.address, json=body, headers=voice.headers)
        try:
            response = await client.send(request, stream=True)
        except httpx.HTTPError:
            raise UnavailableError(AWAY) from None
        try:
            yield response
        finally:
            await response.aclose()


def new_client() -> httpx.AsyncClient:
    """Speaks to this machine alone."""
    # No certificate is looked at on plain loopback: reading the system's would take a while.
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(trust_env=False, timeout=PATIENCE, verify=plain)


async def whole(
    voice: Voice, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """One whole answer: text, deployment, tokens, seconds; ConflictError with a refusal's words."""
    start = time.perf_counter()
    async with asked(voice, _body(voice, messages, settings)) as response:
        try:
            content = await response.aread()
        except httpx.HTTPError:
            raise UnavailableError(BROKEN) from None
        if response.status_code != 200:
            raise ConflictError(_refusal(response.status_code, content))
        told = json.loads(content)
    (choice,) = told["choices"]
    return {
        "text": choice["message"]["content"] or "",
        "finish_reason": choice["finish_reason"],
        "deployment": response.headers.get(DEPLOYMENT, voice.deployment),
        "prompt_tokens": told["usage"]["prompt_tokens"],
        "completion_tokens": told["usage"]["completion_tokens"],
        "seconds": time.perf_counter() - start,
    }


async def pieces(
    voice: Voice, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """An answer as it is made: {"text": …} again and again, then {"done": {…}} or {"error": …}."""
    body = {
        **_body(voice, messages, settings),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    told = Told()
    try:
        async with asked(voice, body) as response:
            if response.status_code != 200:
                content = await response.aread()
                yield {"error": _refusal(response.status_code, content)}
                return
            told.deployment = response.headers.get(DEPLOYMENT, voice.deployment)
            async for line in response.aiter_lines():
                if line.startswith("data:") and (text := line[5:].strip()) != "[DONE]":
                    for event in told.events(json.loads(text)):
                        yield event
    except httpx.HTTPError:
        yield {"error": BROKEN}
    except UnavailableError as error:
        yield {"error": str(error)}
    else:
        if not told.error:
            yield {"done": told.figures()} if told.finish_reason else {"error": BROKEN}


@dataclass
class Told:
    """What is known of an answer so far."""

    deployment: str = ""
    finish_reason: str = ""
    error: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)
    first: float = 0.0  # seconds until the first text
    last: float = 0.0  # and until the last

    def events(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What the browser is told of one event of the gateway."""
        if "error" in event:
            found = event["error"]
            self.error = str(found.get("message") if isinstance(found, dict) else found)
            return [{"error": self.error}]
        self.usage = event.get("usage") or self.usage
        said = []
        for choice in event.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if text := choice.get("delta", {}).get("content"):
                self.last = time.perf_counter() - self.start
                self.first = self.first or self.last
                said.append({"text": text})
        return said

    def figures(self) -> dict[str, Any]:
        """Counts and times; tokens a second are those after the first, as they came here."""
        tokens = self.usage.get("completion_tokens", 0)
        stretch = self.last - self.first
        return {
            "deployment": self.deployment,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.usage.get("prompt_tokens", 0),
            "completion_tokens": tokens,
            "first_seconds": round(self.first, 4) if self.first else None,
            "seconds": round(time.perf_counter() - self.start, 4),
            "tokens_per_s": round((tokens - 1) / stretch, 2) if tokens > 1 and stretch else None,
        }


def _body(
    voice: Voice, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    return {"model": voice.endpoint, "messages": list(messages), **settings}


def _refusal(status: int, content: bytes) -> str:
    """A refusal of the gateway or of a replica in its own words."""
    try:
        said = json.loads(content[:LARGEST])
        error = said.get("error", said)
        text = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = ""
    return str(text or f"The endpoint answered with status {status}.")
