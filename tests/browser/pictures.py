"""Pictures of every page of the studio, light and dark, into docs/images.

    python -m tests.browser.pictures [--home FOLDER] [--only NAME ...]

The pages show `scene.py`: real runs of the quickstart under fixed names. Without --home the scene
is made anew, and the main run is also pictured while it trains (20 minutes on two cores); with
--home a scene that stands is used again. Files are WebP, without loss where they stay small.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "browser")]

import chromium as browsers  # noqa: E402
import scene  # noqa: E402
from browsing import settle  # noqa: E402
from PIL import Image  # noqa: E402

IMAGES = ROOT / "docs" / "images"
WIDE, NARROW, TALLEST = 1280, 360, 1500
LARGEST = 150_000  # bytes of a picture
RUN = f"jobs/{scene.MAIN}"
LIVE_STEP = 45
SLOW = 600_000  # milliseconds for what a model does
QUESTION = "What does a return ticket cost for an adult?"


@dataclass(frozen=True)
class Shot:
    """A page, and what to do on it before it is taken."""

    name: str
    place: str
    prepare: Callable[[Any], None] = lambda page: None
    is_narrow: bool = False  # also taken as a phone shows it
    part: str = ""  # of the page; "" for all of it


def search_log(page: Any) -> None:
    page.fill("#words", "loss")
    page.wait_for_selector("#found li")


def read_curve(page: Any) -> None:
    page.wait_for_selector(".chart svg")
    page.locator(".chart svg").first.hover(position={"x": 220, "y": 120})


def await_step(page: Any) -> None:
    page.wait_for_function(
        """(least) => {
            const found = document.querySelector("#state")?.innerText.match(/Step (\\d+) of/);
            return found && Number(found[1]) >= least;
        }""",
        arg=LIVE_STEP,
        timeout=3_600_000,
    )
    read_curve(page)


def choose(page: Any) -> None:
    page.get_by_label(scene.BASE, exact=True).check()
    page.select_option("#f-train", index=1)
    page.fill("#f-name", "ferry-desk")


def check(page: Any) -> None:
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_role("button", name="Check again").wait_for(timeout=SLOW)


def converse(page: Any) -> None:
    page.evaluate("document.querySelector('.chat-settings').open = true")
    page.fill("[name=temperature]", "0")
    page.fill("[name=max_tokens]", "48")
    page.evaluate("document.querySelector('.chat-settings').open = false")
    page.fill("#said", QUESTION)
    page.click("[data-send]")
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-column]:not([hidden]) [data-save]')]"
        ".every((one) => !one.hidden)",
        timeout=SLOW,
    )


def compare_place() -> str:
    return "compare?" + "&".join(f"run={name}" for name in scene.RUNS)


VOICES = "&".join(f"voice={scene.ENDPOINT}/{name}" for name in ("base", "tuned"))
SHOTS = (
    Shot("home", "", is_narrow=True),
    Shot("jobs", "jobs"),
    Shot("run", RUN, read_curve, is_narrow=True),
    Shot("run-result", f"{RUN}/result", is_narrow=True),
    Shot("run-log", f"jobs/{scene.MAIN}/log", search_log),
    Shot("run-lineage", f"{RUN}/details"),
    Shot("run-failed", f"jobs/{scene.BROKEN}"),
    Shot("compare", compare_place(), read_curve),
    Shot("models", "models"),
    Shot("model", f"models/{scene.MODEL}"),
    Shot("data", "data"),
    Shot("data-rows", f"data/{scene.DATA}"),
    Shot("fine-tune", "fine-tune", choose, is_narrow=True),
    Shot("fine-tune-check", f"fine-tune?from={scene.MAIN}", check, part="#review"),
    Shot("endpoints", "endpoints"),
    Shot("deploy", f"deploy?model={scene.MODEL}:1"),
    Shot("chat", f"chat?{VOICES}", converse, is_narrow=True),
    Shot("endpoint", f"endpoints/{scene.ENDPOINT}"),  # after the chat: it shows what was asked
)
LIVE = Shot("run-live", RUN, await_step)


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium; ends with a reason when there is none."""
    from playwright.sync_api import sync_playwright

    path = browsers.find()
    if path is None:
        sys.exit(browsers.MISSING)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=list(browsers.ARGUMENTS))
        yield opened
        opened.close()


def take(home: Path, shots: Sequence[Shot]) -> None:
    """Every shot in every form it has."""
    link = re.search(r"http://\S+/login\S+", scene.finery(home, "up"))
    assert link is not None
    address = link[0].split("/login")[0]
    with browser() as opened:
        context = opened.new_context(reduced_motion="reduce")
        page = context.new_page()
        page.goto(link[0])
        for shot in shots:
            for width in (WIDE, NARROW) if shot.is_narrow else (WIDE,):
                for scheme in ("light", "dark"):
                    page.set_viewport_size({"width": width, "height": 800})
                    page.emulate_media(color_scheme=scheme)
                    page.goto(f"{address}/studio/{shot.place}")
                    settle(page)
                    shot.prepare(page)
                    page.wait_for_timeout(400)
                    phone = "-phone" if width == NARROW else ""
                    save(page, IMAGES / f"{shot.name}{phone}-{scheme}.webp", width, shot.part)


def save(page: Any, file: Path, width: int, part: str) -> None:
    """The page from its top, as far down as a picture goes, or a part of it."""
    tall = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
    page.set_viewport_size({"width": width, "height": tall})
    page.evaluate("scrollTo(0, 0)")
    taken = page.locator(part).screenshot() if part else page.screenshot()
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    for form in ({"lossless": True, "method": 6}, *({"quality": q} for q in (90, 80, 60))):
        packed = io.BytesIO()
        picture.save(packed, "WEBP", **form)
        if packed.tell() <= LARGEST:
            break
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(packed.getvalue())
    print(f"{file.name:<32}{picture.width} x {picture.height:<6}{packed.tell() / 1000:6.0f} KB")


def main() -> None:
    """Make the scene, where it does not stand, and take the pictures."""
    parser = argparse.ArgumentParser(description="Pictures of the studio into docs/images.")
    parser.add_argument("--home", type=Path, help="where the scene is kept for another time")
    parser.add_argument("--only", nargs="*", default=[], help="names of pictures")
    options = parser.parse_args()
    chosen = [shot for shot in SHOTS if not options.only or shot.name in options.only]
    with tempfile.TemporaryDirectory(prefix="finery-pictures-") as name:
        home = (options.home or Path(name)).resolve()
        service = scene.start(home)
        try:
            scene.before(home, service)
            if service.find("jobs", scene.MAIN) is None:
                scene.submit(home, service, scene.MAIN, scene.RUNS[scene.MAIN])
                take(home, [LIVE])
            assert scene.wait(home, service, scene.MAIN) == "Completed"
            scene.after(home, service)
            take(home, chosen)
        finally:
            scene.stop(home)


if __name__ == "__main__":
    main()
