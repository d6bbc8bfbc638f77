"""The studio in a real browser: what runs, what stays text, and what lives through a restart.

Needs Chromium and playwright (`pip install playwright`; the system's Chromium is used).
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from studio_store import (
    metric_rows,
    put_data,
    put_many,
    put_model,
    put_run,
    sample,
    training_folder,
    write_log,
    write_metrics,
    write_result,
)
from workspaces import new_workspace

from finery.service.app import create_app
from finery.workspace import identity
from finery.workspace.place import Workspace

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is on this machine", allow_module_level=True)

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
LOG = "logs/azureml/executionlogs.txt"


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


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "home"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Site(new_workspace(tmp_path / "service", http_port=port), port)
    made.start()
    yield made
    made.stop()
    made.workspace.store.engine.dispose()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complains of, what executes, and who else is asked."""
    return []


@pytest.fixture
def page(chromium: Any, site: Site, complaints: list[str]) -> Iterator[Any]:
    """A page of a browser that is signed in."""
    context = chromium.new_context()
    made = context.new_page()
    made.on("dialog", lambda one: (complaints.append(f"dialog {one.message}"), one.dismiss()))
    made.on("pageerror", lambda error: complaints.append(f"error {error}"))
    made.on(
        "console",
        lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    made.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(site.address) else complaints.append(f"asked {asked.url}")
        ),
    )
    made.goto(identity.login_link(site.workspace, "/studio/"))
    yield made
    context.close()


def full(workspace: Workspace) -> list[str]:
    """A workspace with something of everything, much of it hostile; and its pages."""
    put_many(workspace, 120)
    steps = put_run(workspace, "run", display_name=EVIL, description=EVIL, tags={EVIL: EVIL})
    other = put_run(workspace, "other", "Running", settings={"learning_rate": EVIL})
    for one in (steps, other):
        folder = training_folder(workspace, one)
        write_metrics(folder, metric_rows(600), 1000)
        write_metrics(folder, [{"step": 1, EVIL: 1.0}, {"step": 2, EVIL: 2.0}])
    write_result(workspace, steps, [sample(EVIL, EVIL, EVIL)])
    write_log(workspace, "run", f"{EVIL}\n" * 50, pipeline=True)
    put_model(workspace, "model", "run", base_model=EVIL)
    put_data(workspace, "set", "rows.jsonl", '{"messages": []}\n' + f"{EVIL}\n")
    runs = [f"jobs/run{tab}" for tab in ("", "/result", "/details", "/log")]
    pages = ["", "jobs", "compare?run=run&run=other", "models/model", "data/set", "fine-tune"]
    return [*pages, *runs, "jobs/other"]


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1440, "dark"), (1920, "light")])
def test_every_page_fits_and_executes_nothing_but_itself(
    page: Any, site: Site, complaints: list[str], width: int, scheme: str
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    for place in full(site.workspace):
        page.goto(f"{site.address}/studio/{place}")
        page.wait_for_load_state("networkidle") if place != "jobs/other" else None
        page.wait_for_timeout(300)
        seen = page.evaluate("document.documentElement.scrollWidth")
        assert seen <= width, f"{place} is {seen} wide"
        dark = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
        assert (dark == "rgb(14, 17, 22)") == (scheme == "dark")
    assert complaints == []


def test_a_log_is_followed_through_a_restart_of_the_service(
    page: Any, site: Site, complaints: list[str]
) -> None:
    put_run(site.workspace, "run", "Running")
    write_log(site.workspace, "run", "one\n", pipeline=True)
    page.goto(f"{site.address}/studio/jobs/run/log")
    text = page.locator("[data-text]")
    playwright.expect(page.locator("[data-status]")).to_have_text("live")
    write_log(site.workspace, "run", "two\n", pipeline=True)
    playwright.expect(text).to_have_text("one\ntwo\n")
    site.stop()
    playwright.expect(page.locator("[data-status]")).to_have_text("waiting for the service")
    write_log(site.workspace, "run", "three\n", pipeline=True)
    site.start()
    playwright.expect(text).to_have_text("one\ntwo\nthree\n", timeout=20_000)
    assert not [one for one in complaints if "net::" not in one]


def test_charts_grow_with_the_run_and_are_read_by_keyboard(
    page: Any, site: Site, complaints: list[str]
) -> None:
    steps = put_run(site.workspace, "run", "Running")
    folder = training_folder(site.workspace, steps)
    write_metrics(folder, metric_rows(50), 100)
    page.goto(f"{site.address}/studio/jobs/run")
    chart = page.locator(".chart svg").first
    playwright.expect(page.locator(".chart")).to_have_count(4)
    chart.focus()
    page.keyboard.press("End")
    readout = page.locator(".readout").first
    playwright.expect(readout).to_contain_text("step 50")
    page.keyboard.press("ArrowLeft")
    playwright.expect(readout).to_contain_text("step 49")
    write_metrics(folder, metric_rows(10, 51))
    playwright.expect(page.locator("#state")).to_contain_text("Step 60 of 100", timeout=10_000)
    playwright.expect(chart).to_have_attribute("aria-label", re.compile("to 60"), timeout=10_000)
    assert complaints == []


def test_jobs_are_found_while_one_types_and_compared(
    page: Any, site: Site, complaints: list[str]
) -> None:
    full(site.workspace)
    page.goto(f"{site.address}/studio/jobs")
    page.fill("#q", "number 11")
    playwright.expect(page.locator("#rows tr")).to_have_count(11)  # 11 and 110 to 119
    page.fill("#q", "tests")
    playwright.expect(page.locator("#rows tr")).to_have_count(2)
    for box in page.locator("#rows input").all():
        box.check()
    page.click("text=Compare the chosen")
    playwright.expect(page.locator("td.best").first).to_be_visible()
    page.locator(".legend button").first.click()
    playwright.expect(page.locator(".legend button").first).to_have_attribute(
        "aria-pressed", "false"
    )
    assert complaints == []


def test_cancel_asks_first(page: Any, site: Site, complaints: list[str]) -> None:
    put_run(site.workspace, "run", "Running")
    page.goto(f"{site.address}/studio/jobs/run")
    page.click("text=Cancel")  # the dialog is dismissed
    assert complaints == ["dialog Stop run? What its finished steps wrote stays."]
    playwright.expect(page.locator("button.danger")).to_have_text("Cancel")


def test_the_first_stop_of_the_keyboard_skips_the_navigation(page: Any, site: Site) -> None:
    page.goto(f"{site.address}/studio/jobs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
