"""What the studio's look says of a fine-tuning before it starts, on the kit's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finery.files import read_json, write_json
from finery.studio import fine_tune_worker as worker

COUNT = 12


@pytest.fixture
def recipe(tmp_path: Path, kit: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Conversations whose answers grow, and a model."""
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    lines = []
    for number in range(COUNT):
        answer = f"It is {number}. " * (1 + number)
        turns = [
            {"role": "user", "content": f"What is number {number}?"},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": turns}) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    model = str(kit / "model" / "stories15m-phi3")
    return {"model": model, "train_file_path": str(tmp_path / "rows.jsonl"), "apply_lora": True}


def answer(folder: Path, recipe: dict[str, Any], rows: int = 5) -> dict[str, Any]:
    write_json(folder / worker.ASK, {"recipe": recipe, "rows": rows})
    worker.main(folder)
    return read_json(folder / worker.ANSWER)


def text_of(row: dict[str, Any]) -> str:
    return "".join(text for text, _ in row["pieces"])


def test_rows_are_shown_as_the_template_says_them_with_their_loss(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    found = answer(tmp_path, recipe)
    train = found["ledgers"][0]
    assert train["total"] == train["trained"] + train["context"] + train["dropped"] + train["cut"]
    assert len(found["rows"]) == 5
    assert found["plan"]["total_steps"] > 0
    for row in found["rows"]:
        number = row["number"] - 1
        (trained,) = [text for text, carries in row["pieces"] if carries]
        assert trained == f"It is {number}. " * (1 + number) + "<|end|>"
        assert text_of(row).startswith(f"<|user|>\nWhat is number {number}?<|end|>")
        assert 0 < row["trained"] < row["tokens"]
        assert row["is_whole"]


def test_a_row_that_is_cut_is_shown_as_far_as_it_is_trained(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    found = answer(tmp_path, {**recipe, "max_seq_length": 24, "long_rows": "truncate"}, COUNT)
    cut = [row for row in found["rows"] if not row["is_whole"]]
    assert cut
    for row in cut:
        assert row["tokens"] == 24
        number = row["number"] - 1
        whole = f"<|user|>\nWhat is number {number}?<|end|>\n<|assistant|>\n"
        whole += f"It is {number}. " * (1 + number)
        assert whole.startswith(text_of(row))
        assert row["pieces"][-1][1]  # it ends within the answer


def test_ids_whose_beginning_is_gone_are_shown_by_the_tokenizer(recipe: dict[str, Any]) -> None:
    from finery.chat.render import load_renderer

    renderer = load_renderer(Path(recipe["model"]))
    ids = renderer.tokenizer("Once upon a time", add_special_tokens=False)["input_ids"]
    flags = [False] * (len(ids) - 1) + [True]
    pieces = worker._decoded(renderer, list(ids), flags)
    assert [carries for _, carries in pieces] == [False, True]
    assert "Once upon a" in pieces[0][0]


def test_everything_wrong_is_an_answer(tmp_path: Path, recipe: dict[str, Any]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n{"messages": 7}\n', encoding="utf-8")
    found = answer(tmp_path, recipe)
    assert len(found["faults"]) == 2
    assert all(fault["where"].startswith(recipe["train_file_path"]) for fault in found["faults"])
    flags = answer(tmp_path, {**recipe, "learning_rate": -1.0})
    assert flags["faults"][0]["where"] == "--learning-rate"
    unknown = answer(tmp_path, {**recipe, "model": str(tmp_path / "nothing")})
    assert "faults" in unknown or "error" in unknown
