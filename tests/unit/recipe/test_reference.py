"""The schema, the page and the written recipe say what the code does."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finery.errors import Fault, InputError
from finery.recipe.inputs import SETTINGS
from finery.recipe.parse import coerce
from finery.recipe.reference import PAGE, recipe_markdown, recipe_schema, recipe_yaml
from finery.recipe.resolve import Resolved, resolve


def valid(schema: dict[str, Any], value: object) -> bool:
    """JSON schema 2020-12 validation for the keywords that recipe schemas use."""
    number = (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    )
    checks = {
        "anyOf": lambda options: any(valid(option, value) for option in options),
        "const": lambda constant: number and value == constant,
        "enum": lambda options: not isinstance(value, bool) and value in options,
        "type": lambda kind: {
            "boolean": isinstance(value, bool),
            "integer": number and value == int(value),  # pyright: ignore[reportArgumentType]
            "number": number,
            "string": isinstance(value, str),
        }[kind],
        "pattern": lambda pattern: isinstance(value, str) and re.fullmatch(pattern, value),
        "minimum": lambda bound: number and value >= bound,
        "maximum": lambda bound: number and value <= bound,
        "exclusiveMinimum": lambda bound: number and value > bound,
        "exclusiveMaximum": lambda bound: number and value < bound,
        "description": bool,
        "default": lambda _: True,
    }
    return all(checks[keyword](argument) for keyword, argument in schema.items())


def some_values(count: int) -> list[Any]:
    """Values a file or an SDK might give, many of them close to a boundary."""
    choose = random.Random(7)  # noqa: S311 - the same values every time
    numbers = [0, 1, -1, 2, 7, 8, 16, 32, 2**32 - 1, 2**32, 2**63 - 1, 2**63, -(2**63), 10**400]
    numbers += [0.0, -0.0, 0.5, 1.0, 3.0, 1.5, 16.0, 99.9, 100.0, 5e-324, 1e300, math.nan, math.inf]
    texts = ["", "true", "True", "tRue", "yes", "16", "16.0", "3.", "+3", " 3", "3\n", "1e-8", "x"]
    texts += ["1e999", "nan", "inf", "-1", "1_0", "0x1", "٣", "9" * 40, "a\0", "\ud800", "é", ".5"]
    texts += [choice for row in SETTINGS.values() for choice in row.choices]
    others = [None, True, False, [], {}, ["q_proj"], {"a": 1}]
    drawn = [choose.choice([choose.uniform(-2, 2), choose.randint(-9, 99)]) for _ in range(count)]
    digits = ["".join(choose.choices("0123456789.eE+-", k=choose.randint(1, 6))) for _ in drawn]
    return [*numbers, *map(str, numbers[:13]), *texts, *others, *drawn, *map(str, drawn), *digits]


def test_the_schema_accepts_what_the_recipe_accepts() -> None:
    properties = recipe_schema()["properties"]
    values = some_values(300)
    for name, row in SETTINGS.items():
        for value in values:
            accepted = not isinstance(coerce(row, value), Fault)
            stated = valid(properties[name], value)
            if isinstance(value, str) and row.kind in ("integer", "number"):
                assert stated or not accepted, (name, value)  # text has a form but no range
            else:
                assert stated == accepted, (name, value)


def test_text_that_has_the_form_of_a_number_is_refused_only_for_its_range() -> None:
    properties = recipe_schema()["properties"]
    for value in some_values(300):
        if isinstance(value, str) and valid(properties["eval_steps"], value):
            parsed = coerce(SETTINGS["eval_steps"], value)
            assert isinstance(parsed, int) or abs(int(value.partition(".")[0])) >= 2**63


def test_the_schema_knows_every_input_and_is_json() -> None:
    schema = recipe_schema()
    assert list(schema["properties"]) == list(SETTINGS)
    assert schema["additionalProperties"] is False
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


def test_the_reference_page_is_fresh() -> None:
    if not PAGE.parent.is_dir():
        pytest.skip("docs/ is not beside this installation")
    assert PAGE.read_text(encoding="utf-8") == recipe_markdown(), (
        "run: python -m finery.recipe.reference"
    )


def test_the_reference_page_has_every_input_once_and_whole_tables() -> None:
    rows = [line for line in recipe_markdown().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(SETTINGS)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)


TRICKY = [
    "a: b # c",
    " leading and trailing ",
    "yes",
    "null",
    "010",
    "-",
    "\"quoted\" 'too'",
    "line\nbreak\ttab",
    "ünï 😀",
    "\x85\u2028\ufeff\xa0",
    "%TAG",
    "x" * 3000,
    "...",
    "{a}",
]


def resolved_here(tmp_path: Path, **flags: object) -> Resolved:
    train = tmp_path / "rows é # 1.jsonl"
    train.write_text("{}\n")
    return resolve(None, {"model": "org/model", "train_file_path": str(train), **flags})


def reloaded(resolved: Resolved, folder: Path) -> Resolved:
    folder.mkdir()
    path = folder / "recipe.yaml"
    path.write_text(recipe_yaml(resolved), encoding="utf-8")
    return resolve(path, {})


@pytest.mark.parametrize("text", TRICKY, ids=range(len(TRICKY)))
def test_a_written_recipe_loads_as_an_equal_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    numbers = {"learning_rate": 1e-05, "adam_epsilon": 1e-08, "weight_decay": 0.1, "precision": 16}
    resolved = resolved_here(tmp_path, compute_finetune=text, apply_lora="true", **numbers)
    again = reloaded(resolved, tmp_path / "elsewhere")
    assert again.recipe == resolved.recipe
    assert recipe_yaml(again).count("\n") == recipe_yaml(resolved).count("\n")


def test_other_yaml_readers_see_the_same_types(tmp_path: Path) -> None:
    resolved = resolved_here(tmp_path, adam_epsilon="1e-8", precision=16)
    values = yaml.safe_load(recipe_yaml(resolved))
    assert values == {name: getattr(resolved.recipe, name) for name in SETTINGS}


def test_a_written_recipe_says_where_each_value_came_from(tmp_path: Path) -> None:
    text = recipe_yaml(resolved_here(tmp_path, learning_rate="1e-4", apply_ort=True))
    assert "\nlearning_rate: 0.0001  # --learning-rate\n" in text
    assert "\nseed: 42  # default\n" in text
    assert "\n# LoRA: Adapters" in text
    assert "\n# Note: apply_ort has no effect" in text


def test_a_strange_file_name_cannot_break_out_of_its_comment(tmp_path: Path) -> None:
    resolved = resolved_here(tmp_path)
    odd = Resolved(resolved.recipe, resolved.origins | {"seed": "a\nseed: 7\x00"})
    assert reloaded(odd, tmp_path / "elsewhere").recipe == resolved.recipe


def test_reading_recipes_loads_no_heavy_library() -> None:
    code = (
        "import sys, finery.recipe, finery.recipe.reference, finery.cli.flags; "
        "print([m for m in ('torch', 'transformers', 'mlflow', 'datasets', 'numpy')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


RANGES = {row.flag: row.expects for row in SETTINGS.values()}


def a_value(choose: random.Random, name: str) -> object:
    """A valid value of one input, as a file or an SDK might give it."""
    row = SETTINGS[name]
    if row.choices:
        return choose.choice(row.choices)
    if row.kind == "boolean":
        return choose.choice([True, False, "true", "False"])
    least, most = row.minimum or 1e-9, min(row.maximum or 900, row.below or 900)
    if row.kind == "integer":
        return choose.choice([int, str])(choose.randint(max(1, int(least)), int(most)))
    if row.kind == "number":
        return choose.choice([float, str])(choose.uniform(least, most) * 0.99)
    return row.default


def test_any_recipe_that_resolves_is_written_and_loaded_as_an_equal_one(tmp_path: Path) -> None:
    choose = random.Random(5)  # noqa: S311 - the same recipes every time
    resolved_count = 0
    for number in range(60):
        names = choose.sample(list(SETTINGS), k=12)
        values = {name: a_value(choose, name) for name in names if name != "model"}
        values = {name: value for name, value in values.items() if not SETTINGS[name].is_path}
        try:
            resolved = resolved_here(tmp_path, **values)
        except InputError as error:
            # Only combinations may be refused: each value alone is one its input accepts.
            assert not [f for f in error.faults if f.expected == RANGES.get(f.where)]
            continue
        resolved_count += 1
        assert reloaded(resolved, tmp_path / str(number)).recipe == resolved.recipe
    assert resolved_count > 10
