"""Options of `finery finetune`: every input is one, and what is wrong is said."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from finery.cli.flags import flags_help, parse_flags
from finery.errors import InputError
from finery.recipe import resolve
from finery.recipe.inputs import SETTINGS


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("--learning-rate 1e-4", {"learning_rate": "1e-4"}),
        ("--learning_rate=1e-4", {"learning_rate": "1e-4"}),
        ("--max-seq-length -1", {"max_seq_length": "-1"}),
        ("--apply-lora", {"apply_lora": True}),
        ("--apply-lora false", {"apply_lora": "false"}),
        ("--apply-lora=true", {"apply_lora": "true"}),
        ("--apply-lora yes", {"apply_lora": "yes"}),
        ("--no-evaluate --seed 1", {"evaluate": False, "seed": "1"}),
        ("--no_apply_lora", {"apply_lora": False}),
        ("--apply-lora --packing", {"apply_lora": True, "packing": True}),
        (
            "--train a --test b --validation c --model d --output e",
            {
                "train_file_path": "a",
                "test_file_path": "b",
                "validation_file_path": "c",
                "model": "d",
                "output_dir": "e",
            },
        ),
        ("--evaluation-config-params=", {"evaluation_config_params": ""}),
        ("--model a=b", {"model": "a=b"}),
        ("--model=a=b", {"model": "a=b"}),
        ("", {}),
    ],
)
def test_options_become_values_by_input_name(line: str, values: dict[str, object]) -> None:
    options = parse_flags(line.split())
    assert (options.values, options.faults, options.file) == (values, [], None)


@pytest.mark.parametrize(
    "line",
    [
        "recipe.yaml --apply-lora --seed 1",
        "--apply-lora recipe.yaml --seed 1",
        "--seed 1 --apply-lora -- recipe.yaml",
    ],
)
def test_a_recipe_file_may_stand_anywhere(line: str) -> None:
    options = parse_flags(line.split())
    assert options.file == Path("recipe.yaml")
    assert options.values == {"apply_lora": True, "seed": "1"}
    assert options.faults == []


@pytest.mark.parametrize(
    ("line", "where", "words"),
    [
        ("--learnin-rate 1", "--learnin-rate", "Did you mean --learning-rate?"),
        ("--lr=1", "--lr", "Did you mean --learning-rate?"),
        ("--train-file x", "--train-file", "Did you mean --train?"),
        ("--no-aply-lora", "--no-aply-lora", "Did you mean --apply-lora?"),
        ("--zzzzz", "--zzzzz", "--help lists them"),
        ("--no-seed", "--no-seed", "unknown option"),
        ("-x", "-x", "unknown option"),
        ("--seed 1 --seed 1", "--seed", "each option once"),
        ("--train a --train-file-path b", "--train-file-path", "each option once"),
        ("--apply-lora --no-apply-lora", "--no-apply-lora", "each option once"),
        ("--no-apply-lora=true", "--no-apply-lora", "no value"),
        ("--seed", "--seed", "an integer"),
        ("--seed --apply-lora", "--seed", "an integer"),
        ("a.yaml b.yaml", "command line", "one recipe file"),
    ],
)
def test_a_slip_on_the_command_line_is_one_fault(line: str, where: str, words: str) -> None:
    options = parse_flags(line.split())
    assert [fault.where for fault in options.faults] == [where]
    assert words in str(options.faults[0])


def test_every_slip_is_reported_in_one_pass_with_the_recipe_s_own() -> None:
    options = parse_flags(["--learnin-rate", "1", "--seed", "--lora-r", "0", "--modle", "x"])
    with pytest.raises(InputError) as error:
        resolve(options.file, options.values, faults=options.faults)
    places = [fault.where for fault in error.value.faults]
    assert places[:4] == ["--learnin-rate", "--seed", "--modle", "--lora-r"]


def test_every_input_is_an_option_and_means_itself() -> None:
    for name, row in SETTINGS.items():
        for flag in {row.flag, "--" + name.replace("_", "-"), "--" + name}:
            assert parse_flags([f"{flag}=v"]).values == {name: "v"}


def test_no_input_can_be_mistaken_for_the_negation_of_another() -> None:
    assert not [name for name in SETTINGS if name.startswith("no_")]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_help_lists_every_option_with_default_and_range_and_fits(width: int) -> None:
    text = flags_help(width)
    words = text.replace(",", " ").split()
    assert max(map(len, text.splitlines())) <= width
    assert all("--" + name.replace("_", "-") in words for name in SETTINGS)
    assert "--train, --train-file-path PATH" in text
    joined = " ".join(text.split())
    assert "peak learning rate [default 2e-05; above 0]" in joined
    assert "[default -1; -1 or at least 8]" in joined
    assert "/ --no-evaluate" in text


def test_no_order_of_words_raises_or_loses_a_word() -> None:
    """Every word ends up as a file, a value or a fault, whatever the order."""
    words = ["--seed", "--seed=2", "--apply-lora", "--no-evaluate", "--", "-", "-1", "", "="]
    words += ["--nope", "true", "a.yaml", "--model", "--=", "---", "--no-", "é\udcff"]
    choose = random.Random(11)  # noqa: S311 - the same command lines every time
    for _ in range(3000):
        argv = choose.choices(words, k=choose.randint(0, 6))
        options = parse_flags(argv)
        assert len(options.files) <= 1
        assert set(options.values) <= set(SETTINGS)
        if not options.faults:
            before = argv[: argv.index("--")] if "--" in argv else argv
            assert sum(word.startswith("--") for word in before) == len(options.values), argv
