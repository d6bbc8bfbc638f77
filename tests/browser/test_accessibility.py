"""Who reads the studio with a keyboard, a screen reader, a phone or in the dark can do so.

The rules are axe-core's (https://github.com/dequelabs/axe-core), from a package that carries it.
"""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import Site, settle, widest
from places import PLACES, furnish

GRAVE = ("serious", "critical")
CONTROLS = "a[href], button, input, select, textarea, summary, [tabindex]"


def grave(page: Any) -> list[str]:
    """What axe finds serious or critical on a page."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} ({node.get('failureSummary', '')[:200]})"
        for one in found
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(page: Any, site: Site, scheme: str) -> None:
    furnish(site.workspace)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    faults = []
    for place in PLACES:
        page.goto(f"{site.address}/studio/{place}")
        settle(page)
        faults += [f"{place}: {fault}" for fault in grave(page)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("width", [360, 1280, 1920])
def test_no_page_scrolls_sideways(page: Any, site: Site, width: int) -> None:
    furnish(site.workspace, "ferry" * 30)
    page.set_viewport_size({"width": width, "height": 800})
    faults = []
    for place in PLACES:
        page.goto(f"{site.address}/studio/{place}")
        settle(page)
        faults += [f"{place}: {fault}" for fault in widest(page)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("place", ["", "jobs", "jobs/run", "jobs/run/log", "jobs/run/result"])
def test_every_control_is_reached_by_the_tab_key_in_reading_order(
    page: Any, site: Site, place: str
) -> None:
    furnish(site.workspace)
    page.goto(f"{site.address}/studio/{place}")
    settle(page)
    page.evaluate(
        """(controls) => {
            const seen = (one) => one.checkVisibility() && !one.disabled && one.type !== "hidden";
            window.wanted = [...document.querySelectorAll(controls)]
                .filter((one) => seen(one) && one.tabIndex >= 0);
        }""",
        CONTROLS,
    )
    wanted = page.evaluate("wanted.length")
    reached = []
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        at = page.evaluate("wanted.indexOf(document.activeElement)")
        if at in reached:
            break
        reached += [at] if at >= 0 else []
    assert wanted > 10
    assert reached == list(range(wanted))


def test_what_has_the_focus_is_seen(page: Any, site: Site) -> None:
    furnish(site.workspace)
    page.goto(f"{site.address}/studio/jobs")
    page.focus("#q")
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_a_page_that_renews_itself_leaves_the_keyboard_where_it_is(page: Any, site: Site) -> None:
    furnish(site.workspace)
    page.goto(f"{site.address}/studio/")
    page.focus("#now a[href$='/jobs/other']")
    with page.expect_response(lambda answer: answer.url.endswith("/studio/now")):
        page.wait_for_timeout(5500)
    page.wait_for_timeout(300)
    assert page.evaluate("document.activeElement.getAttribute('href')") == "/studio/jobs/other"


def test_motion_stops_for_who_asks_for_less(page: Any, site: Site) -> None:
    furnish(site.workspace)
    page.emulate_media(reduced_motion="reduce")
    page.goto(f"{site.address}/studio/jobs/other")
    moving = page.evaluate("document.getAnimations().length")
    assert moving == 0
