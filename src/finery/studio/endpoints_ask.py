"""The test box of an endpoint: one message, one answer."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from finery.errors import Fault, FineryError, InputError
from finery.studio import chat_relay
from finery.studio.chat_refusal import in_place
from finery.studio.endpoints_changes import page_of, part
from finery.studio.layout import form_of, workspace_of

MOST_TOKENS = 256  # of an answer in the box


async def ask(request: Request, name: str) -> Response:
    """Ask the endpoint, or the deployment that the form names."""
    form = form_of(request)
    message = form.get("message", "").strip()
    try:
        if not message:
            raise InputError([Fault("message", "nothing", "a message")])
        voice = await run_in_threadpool(
            chat_relay.voice, workspace_of(request), name, form.get("deployment", "")
        )
        messages = [{"role": "user", "content": message}]
        settings = {"max_tokens": MOST_TOKENS, "temperature": 0.0}
        answer = await chat_relay.whole(voice, messages, settings)
    except FineryError as error:
        return in_place(request, error)
    values = {"link": page_of(name), "answer": answer}
    return part(request, "endpoint_answer.html", name, **values)
