"""What strangers wrote stays text, and pages of strangers change nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chromium as browsers
import pytest
from browsing import EVIL, Site, settle
from places import PLACES, furnish
from studio_store import put_data, put_run, write_log

from finery.jobs import service as jobs
from finery.studio.security import TOKEN_FIELD

FILE = "<img src=x onerror=alert(3)>.jsonl"
ATTRIBUTE = '" onmouseover="alert(4)" autofocus onfocus="alert(5)'
MARKUP = "{{ 7*7 }} <svg onload=alert(6)> javascript:alert(7)"


def test_words_of_strangers_execute_nothing_on_any_page(
    page: Any, site: Site, complaints: list[str]
) -> None:
    furnish(site.workspace, f"{EVIL} {ATTRIBUTE} {MARKUP}")
    put_data(site.workspace, "named", FILE, '{"messages": [{"role": "user", "content": "x"}]}\n')
    for place in (*PLACES, "data/named", "jobs?q=" + "%3Cscript%3Ealert(8)%3C/script%3E"):
        if place != "nowhere":  # a browser calls a missing page an error
            page.goto(f"{site.address}/studio/{place}")
            settle(page)
    assert complaints == []
    assert page.evaluate("document.querySelectorAll('[onerror], [onload], [onfocus]').length") == 0


def test_a_log_that_grows_by_script_shows_it(page: Any, site: Site, complaints: list[str]) -> None:
    put_run(site.workspace, "run", "Running")
    write_log(site.workspace, "run", "begun\n", pipeline=True)
    page.goto(f"{site.address}/studio/jobs/run/log")
    write_log(site.workspace, "run", f"{EVIL}\n", pipeline=True)
    page.wait_for_function(
        "() => document.querySelector('[data-text]').textContent.includes('img')"
    )
    page.fill("#words", "<script>")
    page.wait_for_selector("#found li")
    assert EVIL in page.locator("[data-text]").inner_text()
    assert complaints == []


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A site of somebody else's: its address, and the folder of its pages."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def test_a_form_of_another_site_changes_nothing(
    page: Any, site: Site, elsewhere: tuple[str, Path]
) -> None:
    put_run(site.workspace, "run", "Running")
    page.goto(f"{site.address}/studio/jobs/run")
    token = page.locator(f"form[action$='/cancel'] input[name={TOKEN_FIELD}]").input_value()
    address, folder = elsewhere
    target = f"{site.address}/studio/jobs/run/cancel"
    field = f'<input name="{TOKEN_FIELD}" value="{token}">'  # even with a token that was stolen
    form = f'<form method="post" action="{target}">{field}<button>Win</button></form>'
    (folder / "index.html").write_text(form)
    page.goto(f"{address}/index.html")
    with page.expect_navigation() as gone:
        page.click("button")
    assert gone.value.status == 403
    assert jobs.get(site.workspace, "run").status == "Running"


def test_a_form_without_our_token_changes_nothing(page: Any, site: Site) -> None:
    put_run(site.workspace, "run", "Running")
    page.goto(f"{site.address}/studio/jobs/run")
    answered = page.evaluate(
        "async () => (await fetch('/studio/jobs/run/cancel', {method: 'POST',"
        " headers: {'content-type': 'application/x-www-form-urlencoded'}, body: ''})).status"
    )
    assert answered == 403
    assert jobs.get(site.workspace, "run").status == "Running"


def test_another_name_that_leads_here_is_refused(site: Site, chromium: Any) -> None:
    rules = "--host-resolver-rules=MAP rebound.example 127.0.0.1"
    other = chromium.browser_type.launch(
        executable_path=browsers.find(), args=[*browsers.ARGUMENTS, rules]
    )
    page = other.new_page()
    answer = page.goto(f"http://rebound.example:{site.port}/studio/")
    assert answer.status == 403
    assert "This service has another name" in page.inner_text("main")
    other.close()
