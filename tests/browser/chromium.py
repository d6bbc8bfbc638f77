"""A Chromium for the browser tests: the machine's own, or one that is installed here.

    python -m tests.browser.chromium

looks for one and else installs it: with apt where that may be done without asking (as root, or
with a sudo that asks for no password), else as playwright does. It never fails: without a
Chromium the browser tests are skipped, and say how to get one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

VARIABLE = "FINERY_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage")  # in containers and for root
PATIENCE = 300  # seconds that one way of installing may take
MISSING = (
    "NO CHROMIUM: the studio is not tested in a browser. Run `apt-get install chromium` (as root), "
    f"or `playwright install --with-deps chromium`, or name one in {VARIABLE}."
)


def find() -> str | None:
    """The path of a Chromium that starts; None when there is none."""
    return next((path for path in _candidates() if _starts(path)), None)


def _candidates() -> Iterator[str]:
    if named := os.environ.get(VARIABLE):
        yield named
        return
    yield from filter(None, map(shutil.which, NAMES))
    kept = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    for name in ("chrome", "chrome-headless-shell", "headless_shell"):
        yield from map(str, sorted(kept.glob(f"chromium*/*/{name}"), reverse=True))


def _starts(path: str) -> bool:
    """Ubuntu's `chromium-browser` is a script that only names another package."""
    try:
        asked = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def install() -> str | None:
    """Find a Chromium or install one; None when neither can be done."""
    if found := find():
        return found
    for command in _ways():
        print("no Chromium yet:", " ".join(command), flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            subprocess.run(command, env=environment, timeout=PATIENCE, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"that did not work ({error})", flush=True)
        if found := find():
            return found
    return None


def _ways() -> Iterator[Sequence[str]]:
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") and (not root or shutil.which("sudo")):
        yield [*root, "apt-get", "update", "-q"]
        yield [*root, "apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
    yield [sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"]


if __name__ == "__main__":
    print(install() or MISSING)
