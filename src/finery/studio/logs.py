"""Logs: read from the files that steps write, followed from a place in bytes, searched.

A place in bytes is the whole state of a reader: a stream that breaks off (sleep, another network,
a new service) goes on where its last event ended, by the `Last-Event-ID` of server-sent events
(https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from finery.errors import Fault, InputError
from finery.jobs import service
from finery.jobs.job import EXECUTION_LOG, STD_LOG, Job
from finery.studio import layout
from finery.studio.formats import segment
from finery.studio.layout import workspace_of
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

SHOWN = 64 * 1024  # bytes of a log on a page
PIECE = 64 * 1024  # bytes of one event
MOST_FOUND, LONGEST_LINE = 200, 2000
PAUSE, BEAT, LONGEST_STREAM = 0.5, 15.0, 600.0  # seconds
# From a place: the text after it, where that ends, whether nothing more will come.
News = Callable[[int], tuple[str, int, bool]]


def page(request: Request, name: str, file: str = "", before: str = "") -> Response:
    """The end of a log, or the piece before a place in it."""
    workspace = workspace_of(request)
    job = service.get(workspace, name)
    logs = service.log_files(workspace, name)
    chosen = _chosen(job, [log.name for log in logs], file)
    values: dict[str, Any] = {"text": "", "start": 0, "end": 0, "size": 0}
    if chosen:
        path = _path(workspace, name, chosen)
        values = piece(path, place_of(before, "before", path.stat().st_size))
    return layout.page(
        request,
        "run_log.html",
        title=job.display_name,
        active="jobs",
        tab="log",
        job=job,
        files=[log.name for log in logs],
        chosen=chosen,
        is_end=not before,
        link=f"/studio/jobs/{segment(name)}",
        log_link=f"/studio/jobs/{segment(name)}/log",
        **values,
    )


def _chosen(job: Job, names: list[str], asked: str) -> str:
    """The log that is shown: the one asked for, else the one that says most."""
    if asked:
        return asked
    first = STD_LOG if job.is_step else EXECUTION_LOG
    return first if first in names else next(iter(names), "")


def _path(workspace: Workspace, name: str, file: str) -> Path:
    return service.log_file(workspace, name, file).path


def place_of(text: str, where: str, default: int) -> int:
    """A place in a log, in bytes, as an address has it."""
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InputError([Fault(where, repr(text), "a place in a log, in bytes")])
    return int(text)


def piece(path: Path, end: int) -> dict[str, Any]:
    """Whole lines before `end`, and where they lie."""
    size = path.stat().st_size
    end = min(end, size)
    start = max(0, end - SHOWN)
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(end - start)
    cut = data.find(b"\n") + 1 if start else 0
    last = data.rfind(b"\n") + 1
    if cut < last:  # else it is one long line
        data, start, end = data[cut:last], start + cut, start + last
    return {"text": data.decode("utf-8", "replace"), "start": start, "end": end, "size": size}


def follow(request: Request, name: str, file: str, at: str = "") -> Response:
    """A log as it grows, from a place in it; it ends when the job has ended and all is said."""
    workspace = workspace_of(request)
    _path(workspace, name, file)
    return followed(request, functools.partial(_news, workspace, name, file), at)


def followed(request: Request, news: News, at: str) -> Response:
    """Events of what `news` tells after a place, from the reader's own place on."""
    place = place_of(request.headers.get("last-event-id") or at, "at", 0)
    events = _events(request, news, place)
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(request: Request, news: News, place: int) -> AsyncIterator[str]:
    began = spoke = time.monotonic()
    yield "retry: 1000\n\n"
    while time.monotonic() - began < LONGEST_STREAM and not await _is_over(request):
        text, new, has_ended = await asyncio.to_thread(news, place)
        if text:
            yield f"id: {new}\nevent: text\ndata: {json.dumps(text)}\n\n"
            place, spoke = new, time.monotonic()
        elif has_ended:
            yield f"id: {place}\nevent: end\ndata: {{}}\n\n"
            return
        else:
            if time.monotonic() - spoke > BEAT:
                yield ": still here\n\n"
                spoke = time.monotonic()
            await asyncio.sleep(PAUSE)


async def _is_over(request: Request) -> bool:
    """Whether the reader is gone, or the service ends: readers come back by themselves."""
    is_ending = getattr(request.app.state, "is_ending", None)
    return bool(is_ending and is_ending()) or await request.is_disconnected()


def _news(workspace: Workspace, name: str, file: str, place: int) -> tuple[str, int, bool]:
    """Text after `place`, where it ends, and whether the job had ended before that was read."""
    try:
        has_ended = service.get(workspace, name).is_terminal
        path = _path(workspace, name, file)
    except NotFoundError:  # deleted meanwhile
        return "", place, True
    return after(path, place, has_ended)


def after(path: Path, place: int, has_ended: bool) -> tuple[str, int, bool]:
    """Text of a log after a place, where it ends, and whether nothing more will come."""
    with path.open("rb") as log:
        log.seek(place)
        data = log.read(PIECE)
    whole = data.rfind(b"\n") + 1
    if whole == 0 and (has_ended or len(data) == PIECE):
        whole = len(data)  # an end without a line's end, or a line longer than a piece
    return data[:whole].decode("utf-8", "replace"), place + whole, has_ended


def search(request: Request, name: str, file: str, q: str = "") -> Response:
    """The lines of a log that hold some words, capitals or not."""
    path = _path(workspace_of(request), name, file)
    words = q.strip()[:200]
    found, total = _lines_with(path, words) if words else ([], 0)
    link = f"/studio/jobs/{segment(name)}/log?file={segment(file)}"
    return layout.fragment(
        request, "log_found.html", found=found, total=total, words=words, link=link
    )


def _lines_with(path: Path, words: str) -> tuple[list[dict[str, int | str]], int]:
    """The first lines with `words`, each with its number and the place after it; and how many."""
    wanted, place, total = words.lower(), 0, 0
    found: list[dict[str, int | str]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place += len(line)
            text = line.decode("utf-8", "replace").rstrip("\n")
            if wanted in text.lower():
                total += 1
                if len(found) < MOST_FOUND:
                    shown = text[:LONGEST_LINE]
                    found.append({"number": number, "text": shown, "after": place})
    return found, total


def download(request: Request, name: str, file: str) -> Response:
    """A whole log as a file."""
    path = _path(workspace_of(request), name, file)
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in f"{name}-{file}")
    return FileResponse(path, media_type="text/plain; charset=utf-8", filename=plain[-200:])
