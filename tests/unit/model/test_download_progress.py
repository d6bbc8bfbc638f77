"""A long download says how far it is; a short one, and one that is there, say nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from model_folders import write_model

from finery.errors import FineryError
from finery.model import download_progress, hub
from finery.model.download_progress import sentence, told
from finery.model.sources import resolve_source


class Lines(list[str]):
    """What was said, and a way to wait for it."""

    def __init__(self) -> None:
        self.news = threading.Semaphore(0)

    def __call__(self, text: str) -> None:
        self.append(text)
        self.news.release()

    def wait(self) -> None:
        """Until one more line was said."""
        assert self.news.acquire(timeout=10)


def test_a_line_names_bytes_share_files_and_speed(capfd: pytest.CaptureFixture[str]) -> None:
    bars = download_progress._bars()
    files = bars(desc="Fetching 12 files", total=12)
    transferred = bars(desc="Downloading bytes", total=0, unit="B", unit_scale=True)
    written = bars(desc="Reconstructing", total=0, unit="B", unit_scale=True)
    files.update(4)
    written.total = 4_000_000_000  # as huggingface_hub adds a file that begins
    written.update(1_000_000_000)
    transferred.update(900_000_000)
    assert sentence("org/m", bars.made, 20.0) == (
        "downloading org/m: 1.0 GB of 4.0 GB begun (25%), 4 of 12 files whole, 50.0 MB/s"
    )
    for bar in bars.made:
        bar.refresh()
        bar.close()
    assert capfd.readouterr() == ("", "")  # nothing is drawn


def test_before_the_first_file_begins_a_line_says_so_too() -> None:
    assert sentence("org/m", [], 5.0) == "downloading org/m: 0 B, 0 B/s"


def test_lines_come_while_nothing_does() -> None:
    lines = Lines()
    with told("org/m", lines, seconds=0.01):
        for _ in range(3):
            lines.wait()
    said = len(lines)
    assert not any(t.name == "download of org/m" for t in threading.enumerate())
    assert len(lines) == said


def test_a_download_that_is_soon_over_says_nothing() -> None:
    lines = Lines()
    with told("org/m", lines):
        pass
    assert lines == []


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """A hub that takes its time, and what is said meanwhile."""
    lines, folder = Lines(), write_model(tmp_path / "cache")

    def download(name: str, *, tqdm_class: Any, **_: Any) -> str:
        with tqdm_class(desc="Downloading bytes", total=2_000_000, unit="B") as bar:
            bar.update(500_000)
            lines.wait()
        return str(folder)

    real = download_progress.told
    monkeypatch.delenv("FINERY_HUB_MIRROR", raising=False)
    monkeypatch.setattr(hub, "told", lambda name, say: real(name, say, seconds=0.01))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return lines


def test_the_import_of_a_hub_model_says_how_far_it_is(slow: Lines) -> None:
    assert resolve_source("org/chat-1b", slow).kind == "hub"
    assert slow[0].startswith("downloading org/chat-1b: 500.0 kB of 2.0 MB begun (25%), ")


def test_a_download_that_fails_ends_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, **_: Any) -> str:
        raise OSError("no network")

    monkeypatch.delenv("FINERY_HUB_MIRROR", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(FineryError, match="no network"):
        resolve_source("org/chat-1b", Lines())
    assert not any(t.name.startswith("download of") for t in threading.enumerate())
