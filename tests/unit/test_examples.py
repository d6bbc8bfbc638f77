"""The examples run as their text says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "download-dataset.py"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    for name in ("HuggingFaceH4/ultrachat_200k", "samsum", "HuggingFaceH4/ultrachat_200k/small"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split, rows in (("train_sft", 40), ("test_gen", 20)):
            lines = (json.dumps({"n": n, "messages": []}) + "\n" for n in range(rows))
            (folder / name / f"{split}.jsonl").write_text("".join(lines))
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(folder))
    return folder


def download(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
    )


def rows(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_it_takes_the_arguments_of_azures_script(mirror: Path, tmp_path: Path) -> None:
    words = "--dataset HuggingFaceH4/ultrachat_200k --download_dir got --dataset_split_pc 5"
    answer = download(tmp_path, *words.split())
    assert answer.returncode == 0, answer.stderr
    assert {p.name: rows(p) for p in (tmp_path / "got").iterdir()} == {
        **{"train_sft.jsonl": 2, "test_gen.jsonl": 1}
    }
    assert "2 of 40 rows" in answer.stdout


def test_its_defaults_are_azures(mirror: Path, tmp_path: Path) -> None:
    answer = download(tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert rows(tmp_path / "data" / "train_sft.jsonl") == 40


def test_a_subset_may_be_named(mirror: Path, tmp_path: Path) -> None:
    words = "--dataset HuggingFaceH4/ultrachat_200k --dataset_subset small --download_dir got"
    assert download(tmp_path, *words.split()).returncode == 0
    assert rows(tmp_path / "got" / "test_gen.jsonl") == 20


def test_a_refusal_is_one_message_and_an_exit_status(mirror: Path, tmp_path: Path) -> None:
    answer = download(tmp_path, "--dataset_split_pc", "0")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert "0%" in answer.stderr
