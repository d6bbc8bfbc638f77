"""Endpoints and chat by clicking alone: a real service, real processes, models that are stubs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import EVIL, listen, widest
from playwright import sync_api as playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from service_process import Service
from typer.testing import CliRunner

from finery.cli.main import app
from finery.service.environment import page_link

pytestmark = pytest.mark.timeout(600)

BASE = "Phi-3-mini-4k-instruct"
SLOW = 30_000  # milliseconds for what a process has to do
SAID = {"blue": "I am blue.", "green": "Green here: " + "so it goes, " * 12, "evil": EVIL}


def run(*words: str) -> str:
    answer = CliRunner().invoke(app, list(words))
    if answer.exception:
        raise answer.exception
    return answer.stdout


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, chromium_path: str) -> Iterator[Service]:
    """A service whose endpoint `talk` has three deployments, all traffic at `blue`."""
    made = Service(tmp_path_factory.mktemp("home"), settings={"tracking": False})
    with pytest.MonkeyPatch.context() as patch:
        made.start()
        for name, value in {**made.environment, "FINERY_HOME": str(made.home)}.items():
            patch.setenv(name, value)
        for name, text in SAID.items():
            stub = f"FINERY_STUB=text={quote(text)}&rate=40"
            options = ("--endpoint", "talk", "--deployment", name, "--engine", "stub")
            run("deploy", BASE, *options, "--env", stub)
        yield made
        run("endpoint", "delete", "talk")
        made.stop()


@pytest.fixture(autouse=True)
def here(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of a test speak to the module's service."""
    monkeypatch.setenv("FINERY_HOME", str(service.home))


@pytest.fixture
def page(chromium: Any, service: Service, complaints: list[str]) -> Iterator[Any]:
    """A page of a browser that opened the printed link."""
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    made = context.new_page()
    listen(made, service.http_url, complaints)
    made.goto(page_link(service.folder, service.running, "/studio/endpoints/talk"))
    playwright.expect(made.locator("h1")).to_have_text("talk")
    yield made
    context.close()


def ask(service: Service, key: str) -> httpx.Response:
    """A request as a client of OpenAI's sends it."""
    address = json.loads(run("endpoint", "show", "talk", "--json"))["openaiBaseUrl"]
    body = {"model": "talk", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(
        f"{address}/chat/completions", json=body, headers=headers, trust_env=False, timeout=60
    )


def keys() -> dict[str, str]:
    return json.loads(run("endpoint", "keys", "talk", "--json"))


def test_the_page_shows_deployments_logs_and_what_was_asked(
    page: Any, service: Service, complaints: list[str]
) -> None:
    assert ask(service, keys()["primaryKey"]).status_code == 200
    page.reload()
    for name in SAID:
        playwright.expect(page.locator(f"#d-{name}")).to_contain_text("1 of 1 answers")
    curves = page.locator(".endpoint-page .chart")
    playwright.expect(curves).to_have_count(5, timeout=SLOW)
    playwright.expect(curves.first.locator("svg")).to_have_attribute(
        "aria-label", re.compile(r"from \d\d:\d\d:\d\d to")
    )
    page.click("#log-blue")
    playwright.expect(page.locator("[data-text]")).to_contain_text("blue answers on")
    playwright.expect(page.locator("[data-status]")).to_have_text("live")
    ask(service, keys()["primaryKey"])
    playwright.expect(page.locator("[data-text]")).to_contain_text(
        re.compile(r"(completion=2.*){2}", re.DOTALL)
    )
    assert complaints == []


def test_traffic_moved_by_keyboard_goes_where_it_was_sent(
    page: Any, service: Service, complaints: list[str]
) -> None:
    slide = page.locator("[data-slide=green]")
    playwright.expect(slide).to_be_visible()  # by its script
    slide.focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator("#share-green")).to_have_value("1")
    playwright.expect(page.locator("#share-blue")).to_have_value("99")
    page.keyboard.press("End")
    playwright.expect(page.locator("#share-blue")).to_have_value("0")
    page.fill("#share-evil", "30")
    page.keyboard.press("Tab")
    playwright.expect(page.locator("#share-green")).to_have_value("70")
    playwright.expect(page.locator("[data-sum]")).to_have_text("The shares sum to 100.")
    slide.focus()
    page.keyboard.press("End")
    page.locator("#traffic button.primary").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#messages")).to_contain_text("green 100 %")
    answer = ask(service, keys()["primaryKey"])
    assert answer.headers["azureml-model-deployment"] == "green"
    run("endpoint", "traffic", "talk", "blue=100")  # elsewhere: the open page follows
    playwright.expect(page.locator("#share-blue")).to_have_value("100", timeout=SLOW)
    assert complaints == []


def test_shares_and_times_are_counted_right(page: Any, complaints: list[str]) -> None:
    found = page.evaluate(
        """async () => {
            const base = document.querySelector("script[src*='studio.mjs']").src;
            const { moved } = await import(base.replace("studio.mjs", "traffic.mjs"));
            let shares = [100, 0, 0, 0, 0], seed = 1, wrong = [];
            for (let i = 0; i < 5000; i++) {
                seed = (seed * 48271) % 2147483647;
                const index = seed % 5, wanted = Math.floor(seed / 5) % 131 - 15;
                const next = moved(shares, index, wanted);
                const sum = next.reduce((a, b) => a + b);
                const whole = next.every((n) => Number.isInteger(n) && n >= 0 && n <= 100);
                const kept = next[index] === Math.min(100, Math.max(0, wanted));
                if (sum !== 100 || !whole || !kept) wrong.push([shares, index, wanted, next]);
                shares = next;
            }
            return [wrong, moved([50, 30, 20], 0, 0), moved([90, 10], 1, 30), moved([100], 0, 3)];
        }"""
    )
    assert found == [[], [0, 60, 40], [70, 30], [100]]
    marks = page.evaluate(
        """async () => {
            const base = document.querySelector("script[src*='studio.mjs']").src;
            const { times } = await import(base.replace("studio.mjs", "charts.mjs"));
            const spans = [[0, 60], [1.7e9, 1.7e9 + 900], [1.5e9, 1.9e9]];
            return spans.map(([low, high]) => times(low, high).length);
        }"""
    )
    assert all(2 <= count <= 7 for count in marks)  # however long the time is
    assert complaints == []


def test_keys_are_hidden_shown_and_rotated(
    page: Any, service: Service, complaints: list[str]
) -> None:
    old = keys()
    assert old["primaryKey"] not in page.content()
    page.click("#keys-button")
    playwright.expect(page.locator("[data-key=primary]")).to_have_text(old["primaryKey"])
    page.click("[aria-label='Copy the primary key']")
    assert page.evaluate("navigator.clipboard.readText()") == old["primaryKey"]
    page.click("#keys-button")
    playwright.expect(page.locator("[data-key=primary]")).not_to_have_text(old["primaryKey"])
    assert old["primaryKey"] not in page.content()
    page.evaluate("window.confirm = (text) => { window.asked = text; return true; }")
    page.click("#rotate-primary")
    playwright.expect(page.locator("#keys .message")).to_contain_text("The primary key is new")
    assert "Replace the primary key" in page.evaluate("window.asked")
    new = page.locator("[data-key=primary]").inner_text()
    assert new == keys()["primaryKey"] != old["primaryKey"]
    assert ask(service, old["primaryKey"]).status_code == 401
    assert ask(service, new).status_code == 200
    assert ask(service, old["secondaryKey"]).status_code == 200
    assert complaints == []


def test_the_box_answers_from_the_deployment_that_is_chosen(
    page: Any, complaints: list[str]
) -> None:
    page.select_option(".ask-box select", "evil")
    page.click(".ask-box button")
    playwright.expect(page.locator("#answer")).to_contain_text(EVIL, timeout=SLOW)
    playwright.expect(page.locator("#answer")).to_contain_text("evil · 54 tokens")
    assert complaints == []


def test_several_answer_side_by_side_and_nothing_they_say_executes(
    page: Any, service: Service, complaints: list[str]
) -> None:
    page.goto(f"{service.http_url}/studio/chat?voice=talk/blue&voice=talk/green")
    blue, green, evil = (page.locator(f"[data-column='talk/{one}']") for one in SAID)
    playwright.expect(evil).to_be_hidden()
    page.check("[data-voice][value='talk/evil']")
    assert page.url.endswith("?voice=talk/blue&voice=talk/green&voice=talk/evil")
    page.fill("#said", "Who is there?")
    page.keyboard.press("Enter")
    # Words are there before the answer is whole: it is streamed.
    playwright.expect(green.locator(".growing .lines")).to_contain_text("Green", timeout=SLOW)
    playwright.expect(page.locator("[data-spoken]")).to_have_text("3 models answer.")
    for column, text in ((blue, SAID["blue"]), (green, SAID["green"]), (evil, EVIL)):
        playwright.expect(column.locator(".assistant .lines")).to_have_text(
            text.strip(), timeout=SLOW
        )
        playwright.expect(column.locator("[data-speed]")).to_contain_text("tokens/s")
    playwright.expect(page.locator("[data-spoken]")).to_contain_text(SAID["blue"])
    assert evil.locator("script, img").count() == 0
    page.fill("#said", "And now?")
    page.click("[data-send]")
    playwright.expect(blue.locator(".assistant .lines")).to_have_count(2)
    playwright.expect(blue.locator(".growing")).to_have_count(0, timeout=SLOW)
    playwright.expect(page.locator("[data-send]")).to_be_visible(timeout=SLOW)
    assert complaints == []


def test_an_answer_is_stopped_and_the_conversation_goes_on(
    page: Any, service: Service, complaints: list[str]
) -> None:
    page.goto(f"{service.http_url}/studio/chat?voice=talk/green")
    page.fill("#said", "Talk long.")
    page.click("[data-send]")
    growing = page.locator(".growing .lines")
    playwright.expect(growing).to_contain_text("Green", timeout=SLOW)
    page.click("[data-stop]")
    playwright.expect(page.locator("[data-speed]:visible")).to_have_text("stopped")
    said = page.locator(".assistant .lines").inner_text()
    assert said and SAID["green"].startswith(said)
    playwright.expect(page.locator("[data-stop]")).to_be_hidden()
    requests = service.folder / "logs" / "endpoints" / "talk.jsonl"
    while "ClientLeftError" not in requests.read_text():  # the replica was told, too
        page.wait_for_timeout(50)
    page.click("[data-reset]")
    playwright.expect(page.locator(".said")).to_have_count(0)
    assert complaints == []


def test_a_conversation_becomes_a_data_row(
    page: Any, service: Service, complaints: list[str]
) -> None:
    page.goto(f"{service.http_url}/studio/chat?voice=talk/evil")
    page.click(".chat-settings summary")
    page.fill("[name=system]", "Be evil.")
    page.fill("#said", "Hello?")
    page.click("[data-send]")
    save = page.locator("[data-save]:visible")
    save.click(timeout=SLOW)
    page.fill("dialog [name=data]", "kept talks")
    page.click("dialog .primary")
    assert page.locator("dialog [data-saved] .message").count() == 0  # the name is no name
    page.fill("dialog [name=data]", "kept-talks")
    page.click("dialog .primary")
    playwright.expect(page.locator("dialog .message")).to_have_text("Saved as kept-talks:1, 1 row.")
    page.keyboard.press("Escape")
    save.click()
    page.click("dialog .primary")
    playwright.expect(page.locator("dialog .message")).to_have_text(
        "Saved as kept-talks:2, 2 rows."
    )
    page.click("dialog .message a")
    playwright.expect(page.locator("article.sample")).to_have_count(2)
    playwright.expect(page.locator("article.sample").first).to_contain_text(EVIL)
    playwright.expect(page.locator("article.sample").first).to_contain_text("Be evil.")
    assert complaints == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_every_page_fits_and_axe_finds_nothing_serious(
    page: Any, service: Service, complaints: list[str], width: int, scheme: str
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    places = ("endpoints", "endpoints/talk", "deploy", "chat?voice=talk/blue&voice=talk/evil")
    for place in (*places, "endpoints/talk/deployments/blue/log"):
        page.goto(f"{service.http_url}/studio/{place}")
        page.wait_for_timeout(300)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert widest(page) == [], place
        found = Axe().run(page).response["violations"]
        assert [one for one in found if one["impact"] in ("serious", "critical")] == [], place
    assert complaints == []
