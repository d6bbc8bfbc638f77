"""A browser that is signed in to a studio; skipped, and loudly, where there is no Chromium."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The stores that the studio's other tests make are used here too.
for _part in ("unit/studio", "unit/service", "browser"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _part))

import chromium as browsers  # noqa: E402
from browsing import Site, listen  # noqa: E402
from workspaces import new_workspace  # noqa: E402

from finery.workspace import identity  # noqa: E402


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """A Chromium that starts."""
    found = browsers.find()
    if found is None:
        pytest.skip(browsers.MISSING)
    return found


@pytest.fixture(scope="module")
def chromium(chromium_path: str) -> Iterator[Any]:
    """A browser, for the tests of one module: its driver keeps an event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium_path, args=list(browsers.ARGUMENTS)
        )
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chromium_path: str) -> Iterator[Site]:
    """A studio over an empty store; nothing runs in it."""
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "home"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Site(new_workspace(tmp_path / "service", http_port=port), port)
    made.start()
    yield made
    made.stop()
    made.workspace.store.engine.dispose()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complains of, what executes, and who else is asked."""
    return []


@pytest.fixture
def page(chromium: Any, site: Site, complaints: list[str]) -> Iterator[Any]:
    """A page of a browser that is signed in."""
    context = chromium.new_context()
    made = context.new_page()
    listen(made, site.address, complaints)
    made.goto(identity.login_link(site.workspace, "/studio/"))
    yield made
    context.close()
