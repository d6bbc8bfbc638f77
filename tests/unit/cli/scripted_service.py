"""A service that answers what a test says, and remembers what it was asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from finery.cli.client import Service

GROUP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
WORKSPACE = f"{GROUP}/workspaces/w"


@dataclass
class Script:
    """Answers by `METHOD path`, the path as it ends; the last answer of a list stays."""

    answers: dict[str, list[httpx.Response]] = field(default_factory=dict)
    asked: list[httpx.Request] = field(default_factory=list)

    def on(self, call: str, *answers: Any, status: int = 200, **headers: str) -> None:
        """What to answer to a call, one answer after another."""
        self.answers[call] = [
            httpx.Response(status, headers=headers, **_content(answer)) for answer in answers
        ]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer like the service."""
        self.asked.append(request)
        path = request.url.path
        for call, answers in self.answers.items():
            method, _, end = call.partition(" ")
            if method == request.method and path.endswith(end):
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                return httpx.Response(
                    answer.status_code, headers=answer.headers, content=answer.content
                )
        error = {"code": "NotFound", "message": f"nothing at {path}"}
        return httpx.Response(404, json={"error": error})

    def sent(self, call: str) -> Any:
        """The JSON body of the only request of a kind."""
        method, _, end = call.partition(" ")
        (one,) = [r for r in self.asked if r.method == method and r.url.path.endswith(end)]
        return json.loads(one.content)


def _content(answer: Any) -> dict[str, Any]:
    if isinstance(answer, bytes):
        return {"content": answer}
    return {"content": b""} if answer is None else {"json": answer}


def service_on(script: Script) -> Service:
    """A service whose network is the script."""
    http = httpx.Client(base_url="https://here", transport=httpx.MockTransport(script))
    return Service(http, GROUP, "w")
