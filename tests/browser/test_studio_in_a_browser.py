"""The studio in a real browser: what runs, what stays text, and what lives through a restart."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browsing import Site, settle
from places import furnish
from playwright import sync_api as playwright
from studio_store import metric_rows, put_run, training_folder, write_log, write_metrics


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_follows_the_colours_of_the_system(
    page: Any, site: Site, complaints: list[str], scheme: str
) -> None:
    page.emulate_media(color_scheme=scheme)
    furnish(site.workspace)
    for place in ("", "jobs/run", "jobs/run/result", "fine-tune", "chat"):
        page.goto(f"{site.address}/studio/{place}")
        settle(page)
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
    furnish(site.workspace)
    page.goto(f"{site.address}/studio/jobs")
    page.fill("#q", "number 11")
    playwright.expect(page.locator("#rows tr")).to_have_count(11)  # 11 and 110 to 119
    page.fill("#q", "tests")
    playwright.expect(page.locator("#rows tr")).to_have_count(3)
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
