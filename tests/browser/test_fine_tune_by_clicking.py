"""From a file of conversations to a chat with the tuned model, by clicking and typing alone.

A real service, a real job on the kit's model of 15 million parameters, a real endpoint. On the
way the page is reloaded, and the service is killed and started again under it.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from browsing import listen, widest
from playwright import sync_api as playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from service_process import Service, hub_mirror

from finery.service.environment import page_link

pytestmark = pytest.mark.timeout(900)

BASE, RUN, COPIED = "Phi-3-mini-4k-instruct", "Ferry desk", "It's $HOME {copied}"
LONG = 240_000  # milliseconds for what a machine with two busy cores has to do
QUICK = {"max_seq_length": "128", "eval_generations": "2", "max_new_tokens": "8"}
COMMANDS = {"CLI": "chat.sh", "YAML": "job.yaml", "SDK": "job.py"}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, kit: Path, chromium_path: str
) -> Iterator[Service]:
    """A service with the kit's model in the place of a base model of the registry."""
    mirror = hub_mirror(kit, tmp_path_factory.mktemp("mirror"))
    extra = {"FINERY_HUB_MIRROR": str(mirror), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    settings = {"tracking": False, "warm_steps": True}
    made = Service(tmp_path_factory.mktemp("home"), extra, settings)
    made.start()
    yield made
    made.stop()
    for process in psutil.process_iter(["environ"]):  # replicas and the gateway outlive it
        if (process.info["environ"] or {}).get("FINERY_HOME") == str(made.home):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def page(chromium: Any, service: Service, complaints: list[str]) -> Iterator[Any]:
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    made = context.new_page()
    made.set_default_timeout(30_000)
    listen(made, service.http_url, complaints)
    made.goto(page_link(service.folder, service.running, "/studio/"))
    yield made
    context.close()


def conversations(path: Path, rows: int = 40) -> Path:
    """A file to upload."""
    lines = []
    for number in range(rows):
        answer = f"The ferry number {number} leaves at noon."
        turns = [
            {"role": "user", "content": f"When does ferry {number} leave?"},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": turns}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def put_together(page: Any, file: Path, name: str = RUN, **settings: str) -> None:
    """Fill the form: model, data, settings; and check it."""
    page.get_by_role("link", name="Fine-tune a model").first.click()
    page.get_by_role("radio", name=BASE, exact=True).check()
    page.get_by_label("Upload training conversations").set_input_files(file)
    playwright.expect(page.locator("#f-train")).to_have_value(re.compile("^azureml://data/"))
    page.get_by_label("Name of the run").fill(name)
    for setting, value in {**QUICK, **settings}.items():
        page.get_by_label(setting, exact=True).fill(value)
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_role("heading", name="As the model sees it").wait_for(timeout=LONG)


def test_from_upload_to_chat_by_clicking_only(
    page: Any, service: Service, complaints: list[str], tmp_path: Path
) -> None:
    put_together(page, conversations(tmp_path / "ferries.jsonl"), max_steps="20")
    assert page.locator(".seen").count() == 5
    seen = page.locator(".seen").first
    said = seen.locator("mark.loss").inner_text()
    assert re.fullmatch(r"The ferry number \d+ leaves at noon\.<\|end\|>", said)
    assert "When does ferry" in seen.inner_text()
    playwright.expect(page.locator(".ledger tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/studio/jobs/ferry-desk-*")
    playwright.expect(page.get_by_role("heading", name=RUN)).to_be_visible()
    playwright.expect(page.locator("#state .facts .badge").first).to_contain_text(
        "Running", timeout=LONG
    )
    page.reload()  # nothing is lost by it
    playwright.expect(page.get_by_role("heading", name=RUN)).to_be_visible()
    playwright.expect(page.get_by_role("heading", name="Steps")).to_be_visible()
    assert complaints == []

    service.kill()
    playwright.expect(page.locator("#messages")).to_contain_text("does not answer")
    service.start()
    state = page.locator("#state .facts .badge").first
    playwright.expect(state).to_have_text("Completed", timeout=LONG)  # without a reload
    playwright.expect(page.locator("#messages")).not_to_contain_text("does not answer")
    assert [one for one in complaints if not re.search("net::|htmx:(sendE|afterR)", one)] == []
    complaints.clear()

    page.get_by_role("link", name="See the result").click()
    playwright.expect(page.get_by_text("Held-out loss")).to_be_visible()
    page.get_by_label("Name of the model").fill("ferry-desk")
    page.get_by_role("button", name="Register").click()
    page.wait_for_url("**/studio/models/ferry-desk")
    page.get_by_role("link", name="Deploy", exact=True).first.click()
    playwright.expect(page.get_by_label("Model")).to_have_value(re.compile("ferry-desk"))
    page.get_by_role("button", name="Deploy").click()
    page.wait_for_url("**/studio/endpoints/ferry-desk")
    playwright.expect(page.locator("#state")).to_contain_text("Succeeded", timeout=LONG)
    page.get_by_role("link", name="Chat", exact=True).last.click()
    page.get_by_label("Message", exact=True).fill("When does ferry 7 leave?")
    page.get_by_role("button", name="Send").click()
    column = page.locator("[data-column]:not([hidden])").first
    playwright.expect(column).to_contain_text(re.compile("ferry|[Tt]he|noon"), timeout=LONG)
    assert complaints == []


def test_the_texts_to_copy_really_run(
    page: Any, service: Service, complaints: list[str], tmp_path: Path
) -> None:
    put_together(page, conversations(tmp_path / "rows.jsonl", 30), COPIED, max_steps="1")
    environment = {**service.environment, "FINERY_HOME": str(service.home), **service.extra}
    for name, file in COMMANDS.items():
        page.locator("details.copy summary", has_text=name).click()
        page.get_by_role("button", name=f"Copy as {name}").click()
        text = page.evaluate("navigator.clipboard.readText()")
        (tmp_path / file).write_text(text, encoding="utf-8")
    finery = [sys.executable, "-m", "finery.cli.main"]
    command = (tmp_path / "chat.sh").read_text().replace("finery ", f"{' '.join(finery)} ", 1)
    (tmp_path / "chat.sh").write_text(f"{command} --dry-run\n")
    for words in (
        ["bash", "chat.sh"],
        [*finery, "job", "create", "job.yaml", "--json"],
        [sys.executable, "-W", "ignore", "job.py"],
    ):
        run = subprocess.run(
            words,
            cwd=tmp_path,
            env={**psutil.Process().environ(), **environment},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, f"{words}\n{run.stdout}\n{run.stderr}"
    page.goto(f"{service.http_url}/studio/jobs")
    playwright.expect(page.locator("#rows tr", has_text=COPIED)).to_have_count(2)
    assert complaints == []


def test_a_clone_is_changed_and_marked_and_fits_a_phone(
    page: Any, service: Service, complaints: list[str], tmp_path: Path
) -> None:
    put_together(page, conversations(tmp_path / "rows.jsonl", 30), max_steps="1")
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/studio/jobs/ferry-desk-*")
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("link", name="Clone with changes").click()
    rank = page.get_by_label("lora_r", exact=True)
    rank.fill("4")
    field = page.locator(".field", has=rank)
    playwright.expect(field).to_have_class(re.compile("differs"))
    rank.fill("8")
    playwright.expect(field).not_to_have_class(re.compile("differs"))
    rank.fill("0")
    page.get_by_role("button", name="Check", exact=True).click()
    playwright.expect(page.locator("#faults")).to_be_focused()
    page.locator("#faults a").first.press("Enter")
    playwright.expect(rank).to_have_value("0")
    assert widest(page) == []
    rank.fill("4")
    rank.press("Enter")  # as the button does that comes first: it checks
    page.get_by_role("heading", name="As the model sees it").wait_for(timeout=LONG)
    playwright.expect(page.locator("td.differs")).to_have_text("4")
    assert widest(page) == []
    assert complaints == []
