"""What every test in a browser stands on: a site to stop and start, and an ear at its pages."""

from __future__ import annotations

import threading
from typing import Any

import uvicorn

from finery.service.app import create_app
from finery.workspace.place import Workspace

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Site:
    """The application on a port of its own, to stop and start again."""

    def __init__(self, workspace: Workspace, port: int) -> None:
        self.workspace, self.port = workspace, port
        self.address = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        app = create_app(self.workspace)
        config = uvicorn.Config(
            app, port=self.port, lifespan="off", log_level="error", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            self.thread.join(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


def listen(page: Any, address: str, complaints: list[str]) -> None:
    """Note what executes on a page, what it complains of, and whom else than us it asks."""
    page.on("dialog", lambda one: (complaints.append(f"dialog {one.message}"), one.dismiss()))
    page.on("pageerror", lambda error: complaints.append(f"error {error}"))
    page.on(
        "console",
        lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(address) else complaints.append(f"asked {asked.url}")
        ),
    )


def settle(page: Any) -> None:
    """Wait until the page has what it loads by itself; one that follows something never rests."""
    page.wait_for_load_state("load")
    page.wait_for_timeout(150)
    page.wait_for_function("() => !document.querySelector('.htmx-request')")


def widest(page: Any) -> list[str]:
    """What reaches beyond the window, so that a page would scroll sideways."""
    return page.evaluate(
        """() => {
            const most = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= most) return [];
            return [...document.querySelectorAll("body *")]
                .filter((one) => one.getBoundingClientRect().right > most + 1)
                .map((one) => one.outerHTML.slice(0, 120)).slice(0, 5);
        }"""
    )
