"""Who answers in `finery chat`: a model that is loaded here, or one behind an endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from finery.errors import FineryError

if TYPE_CHECKING:
    import httpx

    from finery.cli.client import Service
    from finery.inference.open import Opened


@dataclass(frozen=True)
class Settings:
    """How answers are made."""

    max_new_tokens: int
    temperature: float
    seed: int


class Voice(Protocol):
    """Something that answers a conversation."""

    def pieces(self, messages: Sequence[dict[str, Any]], settings: Settings) -> Iterator[str]:
        """The answer's text as it is made."""
        ...

    def whole(self, messages: Sequence[dict[str, Any]], settings: Settings) -> dict[str, Any]:
        """The answer with its counts: text, prompt_tokens, new_tokens, finish_reason, seconds."""
        ...


@dataclass(frozen=True)
class Local:
    """A model in this process."""

    opened: Opened

    def pieces(self, messages: Sequence[dict[str, Any]], settings: Settings) -> Iterator[str]:
        """The answer's text as it is made."""
        from finery.inference.generate import stream

        return stream(self.opened.model, self.opened.renderer, messages, **asdict(settings))

    def whole(self, messages: Sequence[dict[str, Any]], settings: Settings) -> dict[str, Any]:
        """The answer with its counts."""
        from finery.inference.generate import generate

        (answer,) = generate(
            self.opened.model, self.opened.renderer, [messages], **asdict(settings)
        )
        return asdict(answer)


@dataclass(frozen=True)
class Remote:
    """A model behind an endpoint, asked as OpenAI's clients ask."""

    service: Service
    name: str
    address: str  # OpenAI's base URL of the endpoint
    key: str
    deployment: str = ""  # this one, whatever the traffic

    def pieces(self, messages: Sequence[dict[str, Any]], settings: Settings) -> Iterator[str]:
        """The answer's text as it is made."""
        response = self.service.send(self._request(messages, settings, stream=True), stream=True)
        try:
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if line.startswith("data:") and data != "[DONE]":
                    yield from _said(json.loads(data))
        finally:
            response.close()

    def whole(self, messages: Sequence[dict[str, Any]], settings: Settings) -> dict[str, Any]:
        """The answer with its counts."""
        start = time.perf_counter()
        told = self.service.send(self._request(messages, settings, stream=False)).json()
        (choice,) = told["choices"]
        return {
            "text": choice["message"]["content"] or "",
            "prompt_tokens": told["usage"]["prompt_tokens"],
            "new_tokens": told["usage"]["completion_tokens"],
            "finish_reason": choice["finish_reason"],
            "seconds": time.perf_counter() - start,
        }

    def _request(
        self, messages: Sequence[dict[str, Any]], settings: Settings, *, stream: bool
    ) -> httpx.Request:
        body = {
            "model": self.name,
            "messages": list(messages),
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "stream": stream,
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        if self.deployment:
            headers["azureml-model-deployment"] = self.deployment
        url = f"{self.address}/chat/completions"
        return self.service.http.build_request("POST", url, json=body, headers=headers)


def _said(event: dict[str, Any]) -> Iterator[str]:
    """The text of one event of a stream; an error in the middle is raised."""
    if "error" in event:
        raise FineryError(str(event["error"].get("message") or event["error"]))
    for choice in event.get("choices", ()):
        if piece := choice.get("delta", {}).get("content"):
            yield piece


def remote(service: Service, name: str, deployment: str) -> Remote:
    """The voice of an endpoint; raises NotFoundError when there is no such endpoint."""
    from finery.cli.endpoint_changes import KIND, key_of

    about = service.get(KIND, name)["properties"]
    return Remote(service, name, about["openaiBaseUrl"], key_of(service, name), deployment)
