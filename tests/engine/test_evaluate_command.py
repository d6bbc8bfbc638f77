"""`finery evaluate` on a real small model and real conversations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from finery.cli.evaluate import evaluate_command
from finery.errors import FineryError
from finery.files import verify_folder

app = typer.Typer()
app.command()(evaluate_command)


@pytest.fixture
def held_out(kit: Path, tmp_path: Path) -> Path:
    """Four short held-out rows, one with a check."""
    lines = (kit / "chat" / "ultrachat-1k" / "test_sft.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in sorted(lines, key=len)[:4]]
    rows[0]["expect"] = ["no model says this"]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _run(*arguments: str | Path) -> str:
    command = [str(a) for a in arguments]
    result = CliRunner().invoke(app, [*command, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_model_against_itself_differs_by_nothing(
    kit: Path, held_out: Path, tmp_path: Path
) -> None:
    model = kit / "model" / "stories15m-phi3"
    other = shutil.copytree(model, tmp_path / "other")
    output = tmp_path / "out"
    text = _run(
        model, "--test", held_out, "--against", other, "--max-new-tokens", "6",
        "--generations", "3", "--output", output, "--json",
    )  # fmt: skip
    found = json.loads(text)
    loss = found["assistant_loss"]
    assert loss["rows"] == 4
    assert loss["base"] == loss["tuned"]
    assert (loss["difference"]["low"], loss["difference"]["high"]) == (0.0, 0.0)
    assert found["base_metrics"] == found["tuned_metrics"]
    assert (found["metric_rows"], found["checks"]["rows"]) == (3, 1)
    assert found["tuned_tokens_per_s"] > 0
    assert verify_folder(output) == []
    assert json.loads((output / "evaluation.json").read_text()) == found
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert [sample["tuned_passed"] for sample in samples] == [False, None, None]
    assert "No difference can be told" in (output / "report.md").read_text()


def test_a_model_alone_is_reported_in_the_terminal(
    kit: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    text = _run(kit / "model" / "stories15m-phi3", "--test", held_out, "--generations", "0")
    assert "loss, assistant tokens (4 rows)" in text
    assert "none were asked for" in text
    assert "base" not in text


def test_an_output_that_is_there_already_is_refused_before_any_work(
    held_out: Path, tmp_path: Path
) -> None:
    with pytest.raises(FineryError, match="is there already"):
        _run("no such model", "--test", held_out, "--output", tmp_path)
