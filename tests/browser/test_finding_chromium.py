"""A Chromium is found where there is one, and its absence is said with the remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import chromium
import pytest


def script(path: Path, status: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


def test_one_that_only_names_another_package_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "bin" / "chromium", 1)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "kept"))
    assert chromium.find() is None
    kept = script(tmp_path / "kept" / "chromium-1200" / "chrome-linux" / "chrome", 0)
    assert chromium.find() == kept
    working = script(tmp_path / "bin" / "google-chrome", 0)
    assert chromium.find() == working


def test_the_variable_names_the_only_one_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(chromium.VARIABLE, script(tmp_path / "mine", 0))
    assert chromium.find() == str(tmp_path / "mine")
    monkeypatch.setenv(chromium.VARIABLE, str(tmp_path / "gone"))
    assert chromium.find() is None


@pytest.mark.parametrize(
    ("user", "there", "expected"),
    [
        (0, {"apt-get"}, ["apt-get update", "apt-get install", "-m playwright"]),
        (1000, {"apt-get", "sudo"}, ["sudo -n", "sudo -n", "-m playwright"]),
        (1000, {"apt-get"}, ["-m playwright"]),
        (0, set(), ["-m playwright"]),
    ],
)
def test_it_is_installed_in_the_ways_that_ask_nothing(
    monkeypatch: pytest.MonkeyPatch, user: int, there: set[str], expected: list[str]
) -> None:
    monkeypatch.setattr(chromium.os, "geteuid", lambda: user)
    monkeypatch.setattr(chromium.shutil, "which", lambda name: name if name in there else None)
    ways = [" ".join(way).removeprefix(sys.executable).strip() for way in chromium._ways()]
    assert [way.startswith(begin) for way, begin in zip(ways, expected, strict=True)] == [
        True for _ in expected
    ]


def test_without_one_the_browser_tests_are_skipped_aloud(tmp_path: Path) -> None:
    here = Path(__file__).parent
    module = here / "test_accessibility.py"
    command = [sys.executable, "-m", "pytest", "-q", str(module), "-k", "focus"]
    environment = {**chromium.os.environ, chromium.VARIABLE: str(tmp_path / "gone")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "NO CHROMIUM" in ran.stdout
    assert "apt-get install chromium" in ran.stdout
