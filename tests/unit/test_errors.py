"""Refusals name every fault, its place, and what to do."""

from __future__ import annotations

import pytest

from finery.errors import (
    Fault,
    FineryError,
    InputError,
    SelfTestError,
    did_you_mean,
    first_line,
    os_reason,
)


def test_a_fault_says_where_what_and_what_instead() -> None:
    fault = Fault("train.jsonl:3:role", "'usr'", "user", "Write user.")
    assert str(fault) == "train.jsonl:3:role: found 'usr'; expected user. Write user."
    assert str(Fault("--seed", "x", "a number")) == "--seed: found x; expected a number."


def test_all_faults_of_a_pass_are_listed_under_their_number() -> None:
    faults = [Fault("a", "1", "2"), Fault("b", "3", "4")]
    error = InputError(iter(faults), "rows")
    assert error.faults == tuple(faults)
    assert str(error).splitlines() == [
        "rows: 2 faults in the input",
        "  a: found 1; expected 2.",
        "  b: found 3; expected 4.",
    ]
    assert str(InputError(faults[:1])).startswith("1 fault in the input\n")


def test_an_input_error_without_a_fault_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="at least one fault"):
        InputError([])


def test_exit_statuses_tell_refused_input_failed_proofs_and_the_rest_apart() -> None:
    assert FineryError("x").exit_status == 1
    assert InputError([Fault("a", "b", "c")]).exit_status == 2
    assert SelfTestError("x").exit_status == 3
    assert issubclass(InputError, FineryError)
    assert issubclass(SelfTestError, FineryError)


def test_a_mistyped_word_is_answered_with_the_nearest_one() -> None:
    assert did_you_mean("learnin_rate", ["seed", "learning_rate"]) == "Did you mean learning_rate?"
    assert did_you_mean("xyz", ["seed"]) == did_you_mean("", []) == ""


def test_the_words_of_other_libraries_fit_into_a_sentence() -> None:
    assert os_reason(PermissionError(13, "Permission denied", "a")) == "permission denied"
    assert os_reason(OSError("Odd")) == "odd"
    assert first_line(ValueError("\nWrong port.\nAt line 3")) == "Wrong port"
    assert first_line(KeyError()) == "KeyError"
