"""The report of a run: what was trained on what, how it went, and whether it helped.

`facts` is a mapping; a key that is absent leaves its section out, except where a reader must
be told that something was not done:

    title          heading
    about          heading of the first section
    summary        {label: value}: base model, device, duration, whatever names the run
    data           {split: file}
    recipe         {setting: value}; origins {setting: where from}: settings not left at their
                   default are shown, all of them when there are no origins
    ledger         [Ledger.to_dict(), ...], one a split
    metrics        rows of metrics.jsonl
    evaluation     Comparison.to_dict(); evaluation_missing: why there is none
    certificate    certificate.json: rows, max_logit_difference, greedy_agreement (0 to 1)
    samples        rows of samples.jsonl (see `sample_rows`)
    files          {what: path}
    next           commands worth running now
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from finery.evaluation.answers import AnsweredRow
from finery.evaluation.curve import loss_curve
from finery.evaluation.layout import (
    Block,
    Code,
    Paragraph,
    Section,
    Table,
    to_console,
    to_markdown,
)
from finery.evaluation.markup import clipped
from finery.evaluation.text_metrics import METRIC_NAMES

if TYPE_CHECKING:
    from rich.console import Group

SAMPLES_SHOWN = 5
CHARACTERS_SHOWN = 700
NONE = "not known"

Facts = Mapping[str, Any]


def report_markdown(facts: Facts) -> str:
    """The report as a Markdown document."""
    return to_markdown(_title(facts), _sections(facts))


def report_console(facts: Facts) -> Group:
    """The report as a rich renderable for the terminal."""
    return to_console(_title(facts), _sections(facts))


def sample_rows(
    base: Sequence[AnsweredRow] | None, tuned: Sequence[AnsweredRow]
) -> list[dict[str, Any]]:
    """The rows of samples.jsonl: prompt, reference, both answers and their checks."""
    paired = zip(base if base is not None else [None] * len(tuned), tuned, strict=True)
    return [
        {
            "file": two.file,
            "row": two.row,
            "messages": [dict(message) for message in two.messages],
            "reference": two.reference,
            "base": one.answer if one else None,
            "tuned": two.answer,
            "expect": list(two.expect) if two.expect is not None else None,
            "base_passed": one.passed if one else None,
            "tuned_passed": two.passed,
            "problem": two.problem or (one.problem if one else ""),
        }
        for one, two in paired
    ]


def _title(facts: Facts) -> str:
    return str(facts.get("title", "Fine-tuning report"))


def _sections(facts: Facts) -> list[Section]:
    made = [
        (str(facts.get("about", "What was trained")), _trained(facts)),
        ("Where every token went", _ledger(facts.get("ledger") or [])),
        ("Loss", [Code(loss_curve(facts["metrics"]))] if "metrics" in facts else []),
        (_evaluation_title(facts), _evaluation(facts)),
        ("Merged model", _certificate(facts.get("certificate"))),
        ("Sample answers", _samples(facts.get("samples") or [])),
        ("Files", _mapping(("what", "where"), facts.get("files") or {})),
        ("Next", [Code("\n".join(facts["next"]), "console")] if facts.get("next") else []),
    ]
    return [Section(title, blocks) for title, blocks in made if blocks]


def _mapping(columns: tuple[str, str], values: Mapping[str, Any]) -> list[Block]:
    return [Table(columns, [(str(k), _value(v)) for k, v in values.items()])] if values else []


def _trained(facts: Facts) -> list[Block]:
    origins = facts.get("origins")
    recipe = facts.get("recipe") or {}
    if origins is not None:
        recipe = {k: v for k, v in recipe.items() if origins.get(k, "default") != "default"}
    return [
        *_mapping(("run", ""), facts.get("summary") or {}),
        *_mapping(("data", "file"), facts.get("data") or {}),
        *_mapping(("setting", "value"), recipe),
    ]


def _ledger(ledgers: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not ledgers:
        return []
    parts = ("total", "trained", "context", "dropped", "cut")
    rows = [
        (
            str(ledger["split"]),
            f"{ledger['rows_used']:,} of {ledger['rows_read']:,}",
            *(f"{ledger[part]:,}" for part in parts),
        )
        for ledger in ledgers
    ]
    blocks: list[Block] = [Table(("split", "rows", *parts), rows, numbers=6)]
    for ledger in ledgers:
        for name in ("cut", "dropped"):
            lost = ledger.get(f"{name}_rows") or []
            if lost:
                listed = ", ".join(_place(loss) for loss in lost[:20])
                more = f" and {len(lost) - 20:,} more" if len(lost) > 20 else ""
                blocks.append(Paragraph(f"{ledger['split']}, rows {name}: {listed}{more}."))
    return blocks


def _place(loss: Mapping[str, Any]) -> str:
    """The row a token was lost of; with its file where the split has several."""
    return f"{Path(loss['file']).name}:{loss['row']}" if loss.get("file") else str(loss["row"])


def _evaluation_title(facts: Facts) -> str:
    found = facts.get("evaluation") or {"has_base": True}
    return "Base against tuned" if found["has_base"] else "Held-out figures"


def _evaluation(facts: Facts) -> list[Block]:
    found = facts.get("evaluation")
    if not found:
        reason = facts.get("evaluation_missing")
        return [Paragraph(f"Not evaluated: {reason}")] if reason else []
    rows = [
        *_loss_rows("assistant tokens", found["assistant_loss"]),
        *_loss_rows("all tokens", found["all_loss"]),
        *_metric_rows(found),
        *_check_rows(found["checks"]),
        *_speed_rows(found),
    ]
    columns = ("held-out figure", "base", "tuned", "tuned − base (95 % interval)")
    blocks: list[Block] = []
    if found["has_base"]:
        blocks += [Paragraph(verdict(found)), Table(columns, rows, numbers=3)]
    elif rows:
        blocks.append(Table(("held-out figure", "value"), [(row[0], row[2]) for row in rows], 1))
    blocks.extend(Paragraph(f"Missing: {sentence}.") for sentence in found["missing"])
    return blocks


def verdict(evaluation: Mapping[str, Any]) -> str:
    """One sentence on whether tuning helped, from the interval of the loss difference."""
    loss = evaluation["assistant_loss"]
    difference = loss["difference"] if loss else None
    if difference is None:
        return "Whether tuning helped is not known: there is no loss of both models to compare."
    held = f"on {loss['rows']:,} held-out rows ({loss['tokens']:,} assistant tokens)"
    if difference["high"] < 0:
        return f"The tuned model is better than its base {held}: the loss is lower, 95 % sure."
    if difference["low"] > 0:
        return f"The tuned model is WORSE than its base {held}: the loss is higher, 95 % sure."
    return f"No difference can be told between tuned and base {held}: the interval holds 0."


def _loss_rows(kind: str, pair: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    if pair is None:
        return []
    losses = (_number(pair["base"]), _number(pair["tuned"]), _interval(pair["difference"]))
    perplexities = (_number(pair["base_perplexity"], 2), _number(pair["tuned_perplexity"], 2))
    return [
        (f"loss, {kind} ({pair['rows']:,} rows)", *losses),
        (f"perplexity, {kind}", *perplexities, ""),
    ]


def _metric_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    base, tuned = found["base_metrics"] or {}, found["tuned_metrics"] or {}
    names = [name for name in METRIC_NAMES if name in tuned]
    return [
        (
            f"{name} ({found['metric_rows']:,} answers)",
            _number(base.get(name)),
            _number(tuned[name]),
            _number(tuned[name] - base[name], signed=True) if name in base else "",
        )
        for name in names
    ]


def _check_rows(checks: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    if not checks:
        return []
    name = f"answers that hold what is expected ({checks['rows']:,} rows)"
    rates = [_interval(checks[who], signed=False) for who in ("base", "tuned")]
    return [(name, *rates, _interval(checks["difference"]))]


def _speed_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    speeds = [found["base_tokens_per_s"], found["tuned_tokens_per_s"]]
    if speeds == [None, None]:
        return []
    return [("tokens generated per second", *(_number(speed, 1) for speed in speeds), "")]


def _certificate(certificate: Mapping[str, Any] | None) -> list[Block]:
    if not certificate:
        return []
    agreement = certificate.get("greedy_agreement")
    share = f"{100 * agreement:.2f} %" if _finite(agreement) else NONE
    sentence = (
        f"The merged weights were compared with base plus adapter on {certificate['rows']:,} rows: "
        f"largest logit difference {_number(certificate.get('max_logit_difference'), 6)}, "
        f"same greedy next token at {share} of the positions."
    )
    return [Paragraph(sentence)]


def _samples(samples: Sequence[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    for sample in samples[:SAMPLES_SHOWN]:
        asked = sample["messages"][-1].get("content") if sample["messages"] else None
        asked = clipped(str(asked or "(no text)"), CHARACTERS_SHOWN)
        blocks.append(Paragraph(f"Row {sample['row']} asks: {asked}"))
        told = [who for who in ("reference", "base") if sample.get(who) is not None]
        blocks.append(Table((*told, "tuned"), [[_answer(sample, who) for who in (*told, "tuned")]]))
    if len(samples) > SAMPLES_SHOWN:
        blocks.append(Paragraph(f"{len(samples) - SAMPLES_SHOWN:,} more are in samples.jsonl."))
    return blocks


def _answer(sample: Mapping[str, Any], who: str) -> str:
    text = sample.get(who)
    if text is None:
        return sample.get("problem") or "(none)"
    passed = sample.get(f"{who}_passed")
    mark = "" if passed is None else "[check passed] " if passed else "[check failed] "
    return mark + (clipped(text, CHARACTERS_SHOWN) if text.strip() else "(an empty answer)")


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any, digits: int = 4, *, signed: bool = False) -> str:
    """A figure with its digits, or that it is not known: never NaN."""
    if not _finite(value):
        return NONE
    return f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"


def _interval(interval: Mapping[str, Any] | None, *, signed: bool = True) -> str:
    if interval is None:
        return NONE
    estimate, low, high = (
        _number(interval[key], signed=signed) for key in ("estimate", "low", "high")
    )
    return f"{estimate} ({low} to {high})"


def _value(value: Any) -> str:
    """A setting or fact as text; a float that is no number is said to be unknown."""
    if isinstance(value, float) and not math.isfinite(value):
        return NONE
    return "" if value is None else str(value)
