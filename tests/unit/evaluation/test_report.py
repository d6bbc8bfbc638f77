"""Reports: everything a reader needs, nothing a terminal or a browser would run."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from finery.evaluation.answers import AnsweredRow
from finery.evaluation.compare import compare
from finery.evaluation.report import report_console, report_markdown, sample_rows, verdict

HOSTILE = (
    "</td><script>alert(1)</script> | ![x](http://e.x/a.png) [bold]red[/bold] \x1b[31m `a`\n# h"
)


@dataclass(frozen=True)
class Losses:
    loss_sum: np.ndarray
    tokens: np.ndarray
    all_loss_sum: np.ndarray
    all_tokens: np.ndarray


def _losses(*per_token: float) -> Any:
    tokens = np.full(len(per_token), 10)
    sums = np.array(per_token) * tokens
    return Losses(sums, tokens, sums * 2, tokens * 2)


def _answers(text: str) -> list[AnsweredRow]:
    asked = ({"role": "user", "content": HOSTILE},)
    return [
        AnsweredRow(HOSTILE, n, asked, "the reference", ("4",), text, False, "", 9, 8, "stop", 0.1)
        for n in range(1, 9)
    ]


def _facts(base: Any, tuned: Any) -> dict[str, Any]:
    answers = _answers("base says"), _answers(HOSTILE)
    return {
        "title": "Run of <today>",
        "summary": {"base model": "org/model", "duration": "3 min"},
        "data": {"train": "train.jsonl"},
        "recipe": {"learning_rate": 5e-6, "seed": 42},
        "origins": {"learning_rate": "--learning-rate", "seed": "default"},
        "ledger": [
            {
                "split": "train",
                "rows_read": 1200,
                "rows_used": 1199,
                "total": 90000,
                "trained": 50000,
                "context": 39000,
                "dropped": 900,
                "cut": 100,
                "cut_rows": [{"row": n} for n in range(1, 31)],
                "dropped_rows": [{"row": 77}],
            }
        ],
        "metrics": [{"step": n, "loss": 3 - n / 10} for n in range(1, 11)],
        "evaluation": compare(base, tuned, *answers).to_dict(),
        "certificate": {"rows": 8, "max_logit_difference": 1.5e-5, "greedy_agreement": 1.0},
        "samples": sample_rows(*answers),
        "files": {"merged model": "out/model"},
        "next": ["finery chat out"],
    }


FACTS = _facts(_losses(3.0, 2.0, 2.5, 2.2), _losses(2.0, 1.5, 1.0, 1.8))


def _terminal(facts: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=120, force_terminal=True, color_system=None).print(
        report_console(facts)
    )
    return out.getvalue()


@pytest.mark.parametrize("view", [report_markdown, _terminal])
def test_a_report_tells_what_was_trained_how_it_went_and_what_is_next(view: Any) -> None:
    text = view(FACTS).replace("\\", "").replace("&lt;", "<")
    for told in (
        "Run of <today>",
        "org/model",
        "train.jsonl",
        "5e-06",
        "1,199 of 1,200",
        "90,000",
        "rows dropped: 77.",
        "and 10 more",
        "· training loss",
        "better than its base",
        "rougeLsum (8 answers)",
        "(8 rows)",
        "100.00 %",
        "0.000015",
        "3 more are in samples.jsonl",
        "out/model",
        "finery chat out",
    ):
        assert told in text, told


def test_settings_left_at_their_default_are_not_listed() -> None:
    assert "seed" not in report_markdown(FACTS)


def test_text_of_users_and_models_renders_as_text_in_markdown() -> None:
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(report_markdown(FACTS))
    assert "<script" not in html
    assert "<img" not in html
    assert "<a " not in html
    assert html.count("<h1") == 1
    assert "alert(1)" in html
    assert "\x1b" not in html


def test_every_row_of_a_markdown_table_has_the_columns_of_its_head() -> None:
    rows: list[int] = []
    for line in [*report_markdown(FACTS).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(line.replace("\\|", "").count("|"))
        else:
            assert len(set(rows)) <= 1
            rows = []


def test_text_of_models_cannot_steer_the_terminal_or_its_markup() -> None:
    text = _terminal({"samples": FACTS["samples"]})
    assert "\x1b[31m" not in text
    assert "[bold]red[/bold]" in text


def test_a_loss_that_is_nan_never_shows_as_a_number() -> None:
    facts = _facts(_losses(3.0, 2.0), _losses(float("nan"), 2.0))
    facts["metrics"].append({"step": 11, "loss": float("nan")})
    for text in (report_markdown(facts), _terminal(facts)):
        assert "nan" not in text.lower()
        assert "not known" in text
        assert "not a finite number" in text


def test_a_run_without_evaluation_says_why() -> None:
    text = report_markdown({"evaluation_missing": "there is no test file"})
    assert "Not evaluated: there is no test file" in text


def test_an_empty_run_still_has_a_report() -> None:
    assert report_markdown({}) == "# Fine-tuning report\n"


@pytest.mark.parametrize(
    ("base", "tuned", "said"),
    [
        ((3.0, 3.1, 3.2), (2.0, 2.1, 2.2), "better"),
        ((2.0, 2.1, 2.2), (3.0, 3.1, 3.2), "WORSE"),
        ((2.0, 3.0, 2.0), (3.0, 2.0, 2.0), "No difference can be told"),
        ((2.0,), (1.0,), "not known"),
    ],
)
def test_the_verdict_is_what_the_interval_allows(
    base: tuple[float, ...], tuned: tuple[float, ...], said: str
) -> None:
    found = compare(_losses(*base), _losses(*tuned), [], []).to_dict()
    assert said in verdict(found)


def test_a_row_without_an_answer_shows_the_reason() -> None:
    asked = ({"role": "user", "content": "hi"},)
    row = AnsweredRow("t", 1, asked, None, None, None, None, "the prompt fills the context")
    assert "the prompt fills the context" in report_markdown({"samples": sample_rows(None, [row])})


def test_a_long_command_is_whole_on_a_narrow_terminal() -> None:
    command = "finery chat runs/" + "a-long-folder-name/" * 5
    screen = io.StringIO()
    Console(file=screen, width=40).print(report_console({"next": [command]}))
    shown = screen.getvalue().replace("\n", "")
    assert command.replace(" ", "") in shown.replace(" ", "")
